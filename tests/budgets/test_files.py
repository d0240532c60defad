"""Budgets of bytes and of milliseconds: those of written files, and never of a network that breaks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.budgets import parse, ratio_for
from compress.budgets.files import CutFiles
from compress.export import export_onnx, signature
from compress.gauge import Gauge
from compress.measure import count_parameters, open_onnx
from compress.measure.layers import LayerTable, Shape
from compress.pruning.channels import ChannelPruner, Settings
from compress.testing.architectures import build


class Plain(nn.Module):
    """Images (batch, 3, 8, 8) to 5 logits; its weights are most of its file."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 100, 3), nn.Conv2d(100, 100, 3), nn.Linear(100, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def plain() -> tuple[nn.Module, tuple[Tensor, ...], ChannelPruner]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = Plain().eval(), (torch.randn(2, 3, 8, 8),)
    return model, inputs, ChannelPruner(model, inputs, Settings(round_to=1))


def as_bytes(model: nn.Module, inputs: tuple[Tensor, ...], path: Path, names: object) -> None:
    """In place of an export, which takes seconds: four bytes for a parameter, of a model that runs."""
    model(*inputs)
    path.write_bytes(bytes(4 * count_parameters(model)))


Files = tuple[nn.Module, tuple[Tensor, ...], ChannelPruner]


def test_a_size_is_that_of_the_written_file(plain: Files, tmp_path: Path) -> None:
    model, inputs, pruner = plain
    answer = ratio_for(parse("size=0.5"), pruner, model, inputs)
    assert 4 * count_parameters(model) < answer.baseline < 4.1 * count_parameters(model)
    assert 0.95 * answer.limit <= answer.cost <= answer.limit == answer.baseline / 2
    export_onnx(pruner.cut(answer.ratio), inputs, tmp_path / "cut.onnx", signature(model, inputs))
    assert answer.cost == (tmp_path / "cut.onnx").stat().st_size


@pytest.fixture
def as_long_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file takes a millisecond for 10 kB: the runtime's clock would make a test depend on the machine."""
    monkeypatch.setattr(Gauge, "_time", lambda self, paths: [path.stat().st_size / 1e4 for path in paths])


def test_a_latency_from_layer_times_to_files(plain: Files, as_long_as_large: None) -> None:
    model, inputs, pruner = plain
    table = LayerTable()
    answer = ratio_for(parse("latency=0.5"), pruner, model, inputs, table=table)
    assert 0.95 * answer.limit <= answer.cost <= answer.limit == answer.baseline / 2
    assert {shape[:3] for shape in table.entries} > {("conv", 3, 100), ("conv", 100, 100), ("linear", 100, 5)}


class Reversed(LayerTable):
    """Says that a narrow layer takes longer than a wide one."""

    def _measure(self, shape: Shape) -> float:
        return 1 / (shape[1] * shape[2])


@pytest.mark.parametrize("target", ["latency=0.25", "latency=0.5", "latency=30ms"])
def test_a_latency_is_met_even_with_a_table_that_is_the_wrong_way_round(
    target: str, plain: Files, as_long_as_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.gauge.export_onnx", as_bytes)
    model, inputs, pruner = plain
    answer = ratio_for(parse(target), pruner, model, inputs, table=Reversed())
    assert answer.baseline == 4 * count_parameters(model) / 1e4
    assert 0.95 * answer.limit <= answer.cost <= answer.limit
    assert answer.cost == pytest.approx(4 * count_parameters(pruner.cut(answer.ratio)) / 1e4)


def test_a_latency_is_the_median_of_calls_with_one_sample(plain: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def time(calls: dict[str, Callable[[], np.ndarray]], **limits: float) -> dict[str, list[float]]:
        seen["outputs"] = [call().shape for call in calls.values()]
        return {name: [1.0, 9.0, 2.0] for name in calls}

    def opened(path: Path, runtime: str, threads: int) -> object:
        seen["threads"] = threads
        return open_onnx(path, runtime, threads)

    monkeypatch.setattr("compress.gauge.time_interleaved", time)
    monkeypatch.setattr("compress.gauge.open_onnx", opened)
    model, inputs, pruner = plain
    assert CutFiles(model, pruner, inputs, tmp_path, 2).baseline_latency == 2
    assert seen == {"outputs": [(1, 5)], "threads": 2}


def test_a_machine_that_slows_down_changes_nothing_for_a_fraction(plain: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, pruner = plain
    slowness = iter(np.geomspace(1, 30, 1000))

    def time(self: Gauge, paths: list[Path]) -> list[float]:
        factor = next(slowness)
        return [factor * path.stat().st_size / 1e4 for path in paths]

    monkeypatch.setattr("compress.gauge.export_onnx", as_bytes)
    monkeypatch.setattr(Gauge, "_time", time)
    answer = ratio_for(parse("latency=0.5"), pruner, model, inputs, table=Reversed())
    true = count_parameters(pruner.cut(answer.ratio)) / count_parameters(model)
    assert 0.475 <= true <= 0.5
    assert answer.cost / answer.baseline == pytest.approx(true)


class Stubborn(Plain):
    """Does not run with fewer than 100 channels in its first layer, of which its operators show nothing."""

    def forward(self, x: Tensor) -> Tensor:
        if self.a(x).shape[1] != 100:
            raise RuntimeError("where are my channels?")
        return super().forward(x)


TARGETS = ["macs=0.9", "params=0.9", "size=0.9", "latency=0.9"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["stubborn", "SegFormer"])
def test_a_network_that_breaks_when_it_is_cut_is_never_measured(
    target: str, name: str, as_long_as_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.gauge.export_onnx", as_bytes)
    model, inputs = build(name) if name != "stubborn" else (Stubborn().eval(), (torch.randn(2, 3, 8, 8),))
    pruner = ChannelPruner(model, inputs, Settings(round_to=4))
    with pytest.raises(RuntimeError):
        pruner.cut(0.9)(*inputs)
    answer = ratio_for(parse(target), pruner, model, inputs, table=Reversed())
    assert 0.8 * answer.limit <= answer.cost <= answer.limit
    pruner.cut(answer.ratio)(*inputs)
    reasons = {group.name: group.fixed for group in pruner.groups if group.fixed is not None}
    if name == "stubborn":
        assert reasons == {
            "a": "cutting it breaks the forward at 'a' (where are my channels?)",
            "head": "an output of the model",
        }
