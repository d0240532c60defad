"""The pass `int8` with each of its methods: the contract, the notes, the messages, and what they are for."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import compress
from compress import gauge, pipeline
from compress.artifact import Artifact
from compress.errors import UserError
from compress.export import export_onnx
from compress.outputs import predictor
from compress.passes import int8
from compress.passes.int8 import Int8
from compress.passes.prune_weights import PruneWeights
from compress.slow_layers import Times
from compress.sparsity.masks import sparse_weights
from compress.task import Task
from compress.testing import check_pass, tiny_model, tiny_task


class Block(nn.Module):
    """Tokens (batch, 6, 8) to 4 logits: two layer norms with linear layers behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(x + self.down(self.up(self.first(x)).relu())).mean(1))


def chain() -> nn.Module:
    """No layer of it is read twice."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3), nn.Flatten())


def task(*shape: int) -> Task:
    """Random inputs of a shape, without the batch."""
    batches = [(torch.randn(16, *shape, generator=torch.Generator().manual_seed(seed)),) for seed in range(4)]
    return Task((batches[0][0][:2],), calibration=lambda: batches)


def drawn(model: nn.Module) -> nn.Module:
    """The model with weights that do not change from run to run, and biases in all its layers."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model.eval()


IMAGES = task(3, 8, 8)
TOKENS = task(6, 8)
RANGES = "ranges from 64 calibration samples"


def after(pass_: Any, model: nn.Module, task: Task) -> tuple[nn.Module, list[str]]:
    """The model after a pass, and its notes."""
    artifact = Artifact.start(model, task)
    return pass_.apply(replace(artifact, model=copy.deepcopy(artifact.model))), artifact.notes


@pytest.mark.parametrize(
    ("options", "make", "data"),
    [
        ({"equalize": True, "bias_correction": True}, chain, IMAGES),
        ({"rounding": "adaround", "rounding_steps": 20, "weight_bits": 4}, tiny_model, tiny_task()),
        ({"smooth": 0.3, "rounding": "adaround", "rounding_steps": 20, "bias_correction": True}, Block, TOKENS),
    ],
)
def test_each_method_keeps_the_contract(options: dict[str, Any], make: Any, data: Task) -> None:
    check_pass(Int8(**options), drawn(make()), data)


@pytest.mark.parametrize(
    ("options", "make", "data", "notes"),
    [
        ({"bias_correction": False}, chain, IMAGES, [RANGES]),
        ({"bias_correction": True}, chain, IMAGES, [RANGES, "corrected the biases of 3 layers"]),
        ({"bias_correction": False, "equalize": True}, chain, IMAGES, ["equalized 1 pair of layers", RANGES]),
        (
            {"bias_correction": False, "equalize": True},
            tiny_model,
            tiny_task(),
            ["equalize found no pair of layers to equalize", RANGES],
        ),
        (
            {"bias_correction": False, "smooth": 0.4},
            Block,
            TOKENS,
            ["smoothed what 1 layer norm gives, alpha 0.4", RANGES],
        ),
        (
            {"bias_correction": False, "smooth": 0.4},
            chain,
            IMAGES,
            ["smooth found no layer norm that linear layers alone read", RANGES],
        ),
        (
            {"rounding": "adaround", "rounding_steps": 3},
            chain,
            IMAGES,
            [RANGES, "learned the rounding of 3 weights in 3 steps each"],
        ),
        (
            {"rounding": "adaround", "rounding_steps": 3, "bits": {"0": 4, "2": 5}},
            chain,
            IMAGES,
            [RANGES, "learned the rounding of 3 weights in 3 steps each; the ranges of 2 of them by squared error"],
        ),
        (
            {"exclude": ("*",), "rounding": "adaround", "allow_noop": True},
            chain,
            IMAGES,
            [RANGES, "adaround found no weight to round"],
        ),
        (
            {"exclude": ("*",), "bias_correction": True, "allow_noop": True},
            chain,
            IMAGES,
            [RANGES, "bias_correction found no bias to correct"],
        ),
    ],
)
def test_the_notes_say_what_was_done(options: dict[str, Any], make: Any, data: Task, notes: list[str]) -> None:
    options = {"weight_bits": 8} | options  # given, so that no note says what the processor at hand needs
    assert after(Int8(**options), drawn(make()), data)[1] == notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 1.0}, "int8: smooth must be in (0, 1), got 1"),
        ({"rounding": "up"}, "int8: rounding must be one of nearest, adaround, got 'up'"),
        ({"rounding_steps": 0}, "int8: rounding_steps must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Int8(**options)
    assert str(error.value) == message


def loss(model: nn.Module, original: nn.Module, data: Task) -> float:
    """Mean squared difference of the outputs, on the calibration data."""
    pairs = [(predictor(model)(*x), predictor(original)(*x)) for x in data.calibration()]
    return float(np.mean([np.square(found - wanted).mean() for found, wanted in pairs]))


def test_learned_rounding_and_corrected_biases_lose_less() -> None:
    model, data = tiny_model(), tiny_task()
    options = ({"bias_correction": False}, {}, {"rounding": "adaround", "rounding_steps": 300})
    nearest, corrected, learned = (loss(after(Int8(weight_bits=4, **each), model, data)[0], model, data) for each in options)
    assert learned < 0.5 * nearest
    assert corrected < 0.7 * nearest


def test_zeros_of_a_sparse_network_stay() -> None:
    sparse = compress.apply(PruneWeights(0.5), drawn(chain()), IMAGES)
    zeros = {name: weight == 0 for name, weight in sparse_weights(sparse).items()}
    found, _ = after(Int8(weight_bits=4, equalize=True, rounding="adaround", rounding_steps=50), sparse, IMAGES)
    for name, mask in zeros.items():
        assert 0.4 < mask.float().mean() < 0.6
        assert (found.get_parameter(name)[mask] == 0).all(), name


def test_layers_that_are_slower_in_integers_stay_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "LEAST_MACS", 0)
    monkeypatch.setattr(int8, "slow_layers", lambda *_: Times(2.0, 1.0, {"body": (0.1, 0.3)}))
    artifact = Artifact.start(tiny_model(), tiny_task())
    assert "body" not in left(Int8(keep_slow=True).apply(artifact))
    assert artifact.notes == ["ranges from 64 calibration samples"]
    artifact.notes.clear()
    assert left(Int8().apply(artifact)) == {"body": "slower in integers on this machine"}
    assert artifact.notes == [
        "ranges from 64 calibration samples",
        "in float, since they are slower in integers here: body (0.30 ms, in float 0.10)",
    ]


@pytest.mark.parametrize(("slow", "again"), [({}, False), ({"body": (0.1, 0.3)}, True)])
def test_the_file_that_was_timed_is_the_stages_own(
    slow: dict[str, tuple[float, float]], again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []

    def export(model: nn.Module, inputs: Any, path: Path, signature: Any, **options: Any) -> None:
        exported.append(path.name)
        export_onnx(model, inputs, path, signature, **options)

    for module in (gauge, pipeline):
        monkeypatch.setattr(module, "export_onnx", export)
    monkeypatch.setattr(int8, "LEAST_MACS", 0)
    monkeypatch.setattr(int8, "slow_layers", lambda *_: Times(2.0, 1.0, slow))
    run = compress.run(tiny_model(), tiny_task(), [Int8()], out=tmp_path / "run", timing={"min_seconds": 0.01})
    assert exported == ["model.onnx", "integers.onnx", *["model.onnx"] * again]
    artifact = Artifact.start(tiny_model(), tiny_task())
    export_onnx(run.model, artifact.task.example_inputs, tmp_path / "again.onnx", artifact.signature)
    assert (tmp_path / "run" / "model.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def left(model: nn.Module) -> dict[str, str]:
    return model.meta["quantization"]["left_in_float"]  # type: ignore[index, return-value]
