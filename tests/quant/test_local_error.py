"""Ranges chosen by what they do to the layers that read a tensor."""

import pytest
import torch
from torch import Tensor, nn

from compress import outputs
from compress.quant import local_error
from compress.quant.fake_quantize import ActivationQuantizer
from compress.quant.local_error import SAMPLES, choose
from compress.quant.observers import HistogramObserver
from compress.quant.ptq import AUTO, QUANTIZERS, calibrate, prepare
from compress.quant.ranges import METHODS, mse


class Weighted(nn.Module):
    """Reads two features; only the second, whose values are small, matters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, -2.0], [0.0, 0.5]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def features(samples: int) -> Tensor:
    """Most squared error of a clipped range is in the first feature, all that matters in the second."""
    return torch.stack([torch.randn(samples) * 100, torch.rand(samples)], 1)


def test_the_error_is_that_of_the_readers_and_not_of_the_tensor() -> None:
    graph_module, _ = prepare(Weighted().eval(), (features(4),))
    path = f"{QUANTIZERS}.x"
    observer = HistogramObserver("x")
    graph_module.set_submodule(path, observer)
    x = features(SAMPLES)
    observer(x)
    proposed = [(-300.0, 300.0), (0.0, 1.0), (0.0, 0.5), mse(observer)]
    assert choose(graph_module, [(x,)], {path: proposed}, {path: ActivationQuantizer()}) == {path: (0.0, 1.0)}


def test_only_the_first_samples_are_asked() -> None:
    graph_module, _ = prepare(Weighted().eval(), (features(4),), dynamic_shapes=({0: torch.export.Dim("n")},))
    path = f"{QUANTIZERS}.x"
    observer = HistogramObserver("x")
    graph_module.set_submodule(path, observer)

    def batches() -> object:
        yield (features(SAMPLES - 10),)
        yield (features(1000),)  # of which only ten are used
        raise AssertionError("a third batch was asked for")

    proposed, quantizers = {path: [(0.0, 1.0), (0.0, 0.1)]}, {path: ActivationQuantizer()}
    assert choose(graph_module, batches(), proposed, quantizers) == {path: (0.0, 1.0)}  # type: ignore[arg-type]
    assert observer.counts.sum() + observer.zeros == SAMPLES * 2


def test_what_is_far_behind_after_the_first_part_is_tried_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    free = ({0: torch.export.Dim("n")},)
    graph_module, _ = prepare(Weighted().eval(), (features(4),), dynamic_shapes=free)
    path = f"{QUANTIZERS}.x"
    graph_module.set_submodule(path, nn.Identity())
    monkeypatch.setattr(outputs, "PART_ELEMENTS", 16)  # eight samples of two features
    quantizer, tried = ActivationQuantizer(), []
    monkeypatch.setattr(
        quantizer, "set_range", lambda low, high: tried.append(high) or ActivationQuantizer.set_range(quantizer, low, high)
    )
    proposed = [(0.0, 0.1), (0.0, 1.0), (0.0, 1.00001), (0.0, 20.0)]
    chosen = choose(graph_module, [(features(SAMPLES),)], {path: proposed}, {path: quantizer})
    assert chosen[path] in proposed[1:3]
    assert tried == [0.1, 1.0, 1.00001, 20.0, *[1.0, 1.00001] * (SAMPLES // 8 - 1)]


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_range_is_tried_as_the_quantizer_would_take_it(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A symmetric one has half of its codes below zero, where hardly a value is, and so clips more to be as fine above."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).eval()
    x = torch.cat([torch.randn(20000, 1).abs() ** 4, torch.full((1, 1), -0.1)])
    graph_module, _ = prepare(model, (x,))
    path = f"{QUANTIZERS}.input_1"
    proposed = [(-0.1, high) for high in torch.linspace(1, float(x.max()), 200).tolist()]

    def error(high: float) -> float:
        low, step = (-high * 128 / 127, high / 127) if symmetric else (-0.1, (high + 0.1) / 255)
        zero = round(-low / step)
        return float(((((x / step).round() + zero).clamp(0, 255) - zero) * step - x).square().sum())

    expected = min((high for _, high in proposed), key=error)
    graph_module.set_submodule(path, nn.Identity())
    monkeypatch.setattr(local_error, "SAMPLES", len(x))
    quantizers = {path: ActivationQuantizer(symmetric=symmetric)}
    assert choose(graph_module, [(x,)], {path: proposed}, quantizers) == {path: (-0.1, expected)}


class Branches(nn.Module):
    """One tensor that a convolution reads, and an addition behind which another convolution comes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.third(x + self.second(x))


@pytest.mark.parametrize("name", METHODS)
def test_auto_is_no_worse_than_any_method(name: str) -> None:
    """For a single tensor; errors of several may cancel."""
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(6, 5)).eval(), torch.randn(SAMPLES, 6) ** 3

    quantized_weight_only, _ = prepare(model, (x,))
    quantized_weight_only.set_submodule(f"{QUANTIZERS}.input_1", nn.Identity())
    reference = quantized_weight_only(x).detach()

    def error_of(ranges: str) -> float:
        graph_module, _ = prepare(model, (x,))
        calibrate(graph_module, lambda: [(x,)], ranges)
        return float((graph_module(x).detach() - reference).square().sum())

    assert error_of(AUTO) <= error_of(name) * (1 + 1e-6)


def test_every_quantizer_of_branches_gets_a_range() -> None:
    x = torch.randn(8, 4, 6, 6)
    graph_module, _ = prepare(Branches().eval(), (x,))
    calibrate(graph_module, lambda: [(x,)], AUTO)
    quantizers = [module for module in graph_module.modules() if isinstance(module, ActivationQuantizer)]
    assert len(quantizers) == 5
    assert all(quantizer.scale.item() != 1 for quantizer in quantizers)
