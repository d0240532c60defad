"""The pass int8_dynamic in whole runs, and what it refuses."""

from pathlib import Path

import pytest
import torch
from torch import nn

import compress
from compress.errors import PassError, UserError
from compress.passes.int8_dynamic import Int8Dynamic
from compress.passes.weight_only import WeightOnly
from compress.report.text import headline
from compress.testing import tiny_model, tiny_task

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}


class Words(nn.Module):
    """Words (batch, 6) to 4 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(200, 32)
        self.norm = nn.LayerNorm(32)
        self.inner, self.head = nn.Linear(32, 64), nn.Linear(64, 4)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.inner(self.norm(self.table(words)))).mean(1))


def words_task() -> compress.Task:
    """A task without any data."""
    return compress.Task((torch.randint(200, (4, 6)),))


def test_a_run_without_data_and_back(tmp_path: Path) -> None:
    model, task = Words(), words_task()
    run = compress.run(model, task, [Int8Dynamic(weight_bits=8)], out=tmp_path / "out", timing=QUICK)
    assert run.report["stages"][-1]["notes"] == [
        "2 linear layers and 1 embedding in int8, the ranges of activations found at run time"
    ]
    assert run.report["integer_coverage"] == {
        **{"conv": [0, 0], "linear": [2, 2], "product": [0, 0], "add": [0, 0], "embedding": [1, 1]},
        "left_in_float": [],
    }
    assert headline(run.report)[0].endswith("2/2 linear, 1/1 embedding in int8")
    loaded = compress.load(tmp_path / "out", model)
    (x,) = task.example_inputs
    with torch.no_grad():
        assert torch.equal(loaded(x), run.model(x))
        assert 0 < (run.model(x) - model(x)).abs().max() < 0.02


def test_convolutions_are_named_in_the_report(tmp_path: Path) -> None:
    run = compress.run(tiny_model(), tiny_task(), [Int8Dynamic()], timing=QUICK)
    coverage = run.report["integer_coverage"]
    assert (coverage["conv"], coverage["linear"]) == ([0, 2], [1, 1])
    reason = "ONNX Runtime's ConvInteger is slower than a convolution in float; the pass int8 takes it"
    assert [each for each in coverage["left_in_float"] if "add" not in each["name"]] == [
        {"name": "stem", "reason": reason},
        {"name": "body", "reason": reason},
    ]


@pytest.mark.parametrize("pass_", [Int8Dynamic(), WeightOnly()], ids=lambda pass_: pass_.name)
def test_a_network_without_linear_layers_is_refused(pass_: Int8Dynamic | WeightOnly) -> None:
    task = compress.Task((torch.randn(2, 3, 8, 8),))
    with pytest.raises(PassError) as error:
        compress.apply(pass_, nn.Sequential(nn.Conv2d(3, 4, 3)), task)
    assert str(error.value) == (
        f"{pass_.name} found no linear layer or embedding to quantize in Sequential; the pass int8 takes convolutions, too, "
        "and the option allow_noop lets the network pass as it is"
    )


@pytest.mark.parametrize("pass_", [Int8Dynamic(allow_noop=True), WeightOnly(allow_noop=True)], ids=lambda pass_: pass_.name)
def test_or_passes_as_it_is(pass_: Int8Dynamic | WeightOnly) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    result = compress.apply(pass_, model, compress.Task((torch.randn(2, 3, 8, 8),)))
    assert type(result) is nn.Sequential
    assert torch.equal(result[0].weight, model[0].weight)


@pytest.mark.parametrize("kind", [Int8Dynamic, WeightOnly])
def test_a_pattern_that_matches_nothing_is_refused(kind: type[Int8Dynamic | WeightOnly]) -> None:
    with pytest.raises(UserError) as error:
        compress.apply(kind(exclude=("hed",)), Words(), words_task())
    assert str(error.value) == f"{kind.name}: exclude 'hed' matches no linear layer or embedding"


def test_other_bits_are_refused() -> None:
    with pytest.raises(UserError) as error:
        Int8Dynamic(weight_bits=4)
    assert str(error.value) == "int8_dynamic: weight_bits must be 7 or 8, got 4"


def test_a_processor_that_saturates_gets_seven_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.passes.int8_dynamic.saturates", lambda: True)
    model = Words()
    result = compress.apply(Int8Dynamic(), model, words_task())
    scale = result.get_submodule("quantizers.head_weight").scale
    assert torch.allclose(scale, model.head.weight.abs().amax(1) / 63)
