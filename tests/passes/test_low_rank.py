"""The pass `low_rank`: ranks by hand, what is left alone, and every pass that may come after it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import pipeline
from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.export import export_onnx
from compress.low_rank.factorize import spectrum
from compress.low_rank.modules import LowRankConv2d, LowRankLinear
from compress.measure import count_macs, count_parameters, integer_coverage
from compress.passes.base import Pass
from compress.passes.finetune import Finetune
from compress.passes.int8 import Int8
from compress.passes.low_rank import LowRank
from compress.passes.prune_channels import PruneChannels
from compress.store import load_model, save_model
from compress.task import Task
from compress.testing import architectures, check_pass, tiny_model, tiny_task


def factorised(model: nn.Module, *inputs: Tensor, **options: Any) -> tuple[nn.Module, list[str]]:
    """The model after the pass, and its notes."""
    artifact = Artifact.start(copy.deepcopy(model), Task(inputs or (torch.randn(2, 3, 16, 16),)))
    return LowRank(**options).apply(artifact), artifact.notes


def test_the_contract_is_kept_with_options() -> None:
    result = check_pass(LowRank(ratio=0.4, exclude=("stem",)))
    assert type(result.body) is LowRankConv2d and type(result.head) is LowRankLinear and type(result.stem) is nn.Conv2d


def with_energies(*energies: float) -> nn.Linear:
    """A square linear layer whose weight has these energies."""
    turned, _ = torch.linalg.qr(torch.randn(len(energies), len(energies), dtype=torch.float64))
    layer = nn.Linear(len(energies), len(energies))
    with torch.no_grad():
        layer.weight.copy_(turned * torch.tensor(energies).double().sqrt())
    return layer


def ranks(model: nn.Module) -> dict[str, int]:
    kinds = (LowRankLinear, LowRankConv2d)
    return {path: len(module.reduce.weight) for path, module in model.named_modules() if isinstance(module, kinds)}


def test_ranks_and_the_note_by_hand() -> None:
    # Of 100: 60, 31, 4, 2, and 0.5 six times. A rank costs 20 of 100 weights, so that 4 is the last that saves any.
    layer = with_energies(60, 31, 4, 2, *[0.5] * 6)
    model, x = nn.Sequential(layer, nn.ReLU(), with_energies(*[1] * 10)), torch.randn(2, 10)
    result, notes = factorised(model, x, energy=0.94, round_to=1)
    assert ranks(result) == {"0": 3}
    assert notes == [
        "1 layers factorised, 100 weights to 60; rank (energy): 0 3 of 10 (0.950)",
        "left alone: 2 (the rank it needs would not be smaller)",
    ]
    assert ranks(factorised(model, x, energy=0.89, round_to=1)[0]) == {"0": 2}
    assert ranks(factorised(model, x, round_to=1)[0]) == {"0": 2}, "the default is an energy of 0.9"
    assert ranks(factorised(model, x, energy=0.89, round_to=4)[0]) == {"0": 4}
    assert ranks(factorised(model, x, energy=0.89, round_to=8)[0]) == {"0": 2}, "8 would save nothing"
    assert ranks(factorised(model, x, energy=0.89, round_to=1, min_rank=4)[0]) == {"0": 4}
    assert ranks(factorised(model, x, ratio=0.7, round_to=1)[0]) == {"0": 3, "2": 3}, "3.5 ranks"
    assert ranks(factorised(model, x, ratio=0.7, round_to=2)[0]) == {"0": 2, "2": 2}
    assert ranks(factorised(model, x, ratio=0.3, round_to=1, min_rank=2, exclude=("2",))[0]) == {"0": 2}
    assert ranks(factorised(model, x, ratio=0.3, round_to=4, min_rank=3)[0]) == {"0": 3, "2": 3}
    assert ranks(factorised(model, x, ratio=0.7, round_to=2, min_rank=3)[0]) == {"0": 3, "2": 3}, "2 would be below 3"
    assert ranks(factorised(model, x, ratio=0.1, round_to=1)[0]) == {"0": 1, "2": 1}, "at least one, though it leaves 0.2"


def test_an_energy_is_always_kept_and_a_ratio_never_exceeded() -> None:
    model, inputs = architectures.build("squeeze and excitation")
    before = dict(model.named_modules())
    for path, rank in ranks(factorised(model, *inputs, energy=0.6)[0]).items():
        assert spectrum(before[path].weight.flatten(1)).kept(rank) >= 0.6, path
    after = factorised(model, *inputs, ratio=0.45)[0]
    for path in ranks(after):
        weights = sum(p.numel() for name, p in after.get_submodule(path).named_parameters() if name.endswith("weight"))
        assert weights <= 0.45 * before[path].weight.numel(), path


def test_parameters_and_multiply_adds_both_fall(residual_net: nn.Module, images: Tensor) -> None:
    result, _ = factorised(residual_net, images, ratio=0.5)
    assert count_parameters(result) < count_parameters(residual_net)
    assert count_macs(result, (images,)) < 0.6 * count_macs(residual_net, (images,))


@pytest.mark.parametrize("name", ["GPT-2", "nn.MultiheadAttention", "weight tying", "dict of outputs"])
def test_common_architectures_run_and_come_back(name: str, tmp_path: Path) -> None:
    model, inputs = architectures.build(name)
    start = Artifact.start(model, Task(inputs))
    result = pipeline.transformed(LowRank(ratio=0.4), start, 0, torch.device("cpu")).model
    assert ranks(result)
    save_model(tmp_path, result, model, {"origin": {"kind": "module"}})
    loaded = load_model(tmp_path, copy.deepcopy(model))
    assert not pipeline.differs(loaded, result)
    assert [type(module) for module in loaded.modules()] == [type(module) for module in result.modules()]


def after(*passes: Pass) -> nn.Module:
    """The tiny model after these passes."""
    artifact = Artifact.start(tiny_model(), tiny_task())
    pipeline.check(passes, artifact.task)
    for pass_ in passes:
        artifact = pipeline.transformed(pass_, artifact, 0, torch.device("cpu"))
    return artifact.model


def come_back(result: nn.Module, folder: Path) -> None:
    """Fail unless the model is saved and loaded without a changed number."""
    save_model(folder, result, tiny_model(), {"origin": {"kind": "module"}})
    (x,) = tiny_task().example_inputs
    with torch.no_grad():
        assert torch.equal(load_model(folder, tiny_model())(x), result(x))


def test_integers_run_in_both_factors(tmp_path: Path) -> None:
    result = after(LowRank(ratio=0.5), Int8())
    path = tmp_path / "model.onnx"
    start = Artifact.start(tiny_model(), tiny_task())
    export_onnx(result, start.task.example_inputs, path, start.signature)
    # Stem and body are two convolutions each, the head is two linear layers.
    counts = {kind: found for kind, found in integer_coverage(path).counts.items() if found[1]}
    assert counts == {"conv": (4, 4), "linear": (2, 2), "add": (1, 1)}
    come_back(result, tmp_path)


def test_factors_are_trained(tmp_path: Path) -> None:
    before, trained = after(LowRank(ratio=0.5)), after(LowRank(ratio=0.5), Finetune(epochs=1))
    for factor in ("reduce", "expand"):
        assert not torch.equal(before.body.get_submodule(factor).weight, trained.body.get_submodule(factor).weight)
    come_back(trained, tmp_path)


def test_channels_are_pruned_before_and_afterwards(tmp_path: Path) -> None:
    prune = PruneChannels(ratio=0.5, round_to=1)
    pruned = after(LowRank(ratio=0.5), prune)
    assert (pruned.body.reduce.in_channels, pruned.body.expand.out_channels) == (8, 8)
    come_back(pruned, tmp_path)
    factored = after(prune, LowRank(ratio=0.5))
    assert (factored.body.reduce.in_channels, factored.body.expand.out_channels) == (8, 8)
    come_back(factored, tmp_path)
    come_back(after(prune, LowRank(ratio=0.5), prune, Int8()), tmp_path)


def test_a_second_time_changes_nothing() -> None:
    start = Artifact.start(tiny_model(), tiny_task())
    once = pipeline.transformed(LowRank(ratio=0.5), start, 0, torch.device("cpu"))
    with pytest.raises(PassError) as error:
        LowRank(ratio=0.5).apply(once)
    assert str(error.value) == (
        "low_rank found no layer to factorise; the model from before stands; left alone: stem.reduce, stem.expand, body.reduce, "
        "body.expand, head.reduce, head.expand (of low rank already)"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowRank(energy=0.9, ratio=0.5), "low_rank: energy and ratio each decide the rank; give one of them"),
        (lambda: LowRank(energy=1), "low_rank: energy must be in (0, 1), got 1"),
        (lambda: LowRank(ratio=0), "low_rank: ratio must be in (0, 1), got 0"),
        (lambda: LowRank(min_rank=0), "low_rank: min_rank must be at least 1, got 0"),
        (lambda: LowRank(round_to=0), "low_rank: round_to must be at least 1, got 0"),
        (
            lambda: factorised(tiny_model(), exclude=("stem", "layer4")),
            "low_rank: exclude 'layer4' matches no convolution or linear layer",
        ),
    ],
)
def test_a_wrong_option_is_told(make: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == message


def test_nothing_to_do_is_told() -> None:
    with pytest.raises(PassError) as error:
        factorised(tiny_model(), energy=0.999, exclude=("head",))
    assert str(error.value) == (
        "low_rank found no layer to factorise; the model from before stands; left alone: head (excluded); stem, body (the rank "
        "it needs would not be smaller)"
    )
    with pytest.raises(PassError) as error:
        factorised(nn.Sequential(nn.BatchNorm2d(3)))
    assert str(error.value) == "low_rank found no layer to factorise; the model from before stands"
    result, _ = factorised(tiny_model(), energy=0.999, allow_noop=True)
    assert not ranks(result)


class Fails(nn.Module):
    """Fails once `broken` is set."""

    broken = False

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            raise RuntimeError("no more\nat all")
        return self.layer(x)


def test_a_forward_that_fails_is_told() -> None:
    artifact = Artifact.start(Fails(), Task((torch.randn(2, 4),)))
    artifact.model.broken = True
    with pytest.raises(PassError) as error:
        LowRank().apply(artifact)
    assert str(error.value) == "low_rank cannot run the forward of Fails (no more)"
