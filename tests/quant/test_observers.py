"""Ranges measured batch by batch, against the same figures computed on all values at once."""

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.errors import UserError
from compress.quant.fake_quantize import ActivationQuantizer
from compress.quant.observers import BINS, HistogramObserver


def observing(*batches: Tensor) -> HistogramObserver:
    observer = HistogramObserver("layer1.relu")
    for batch in batches:
        assert observer(batch) is batch
    return observer


def squared_error(values: Tensor, low: float, high: float) -> float:
    quantizer = ActivationQuantizer()
    quantizer.set_range(low, high)
    return float((quantizer(values) - values).double().square().mean())


def test_widening_keeps_every_count_and_covers_the_extremes() -> None:
    batches = [torch.randn(500) * scale for scale in (0.01, 1.0, 0.1, 30.0, 4.0)]
    observer, everything = observing(*batches), torch.cat(batches).numpy()
    assert observer.counts.sum().item() == 2500
    assert observer.minmax() == (everything.min(), everything.max())
    assert observer.reach >= np.abs(everything).max()
    at_once, _ = np.histogram(everything, BINS, (-observer.reach, observer.reach))
    moved = np.abs(observer.counts.numpy() - at_once).sum() / 2
    assert moved <= 5  # values that lie on the edge of two bins, up to float32's rounding


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([torch.tensor([1.0, 3.0]), torch.tensor([2.0])], (0.0, 3.0)),
        ([torch.tensor([-4.0, -1.0])], (-4.0, 0.0)),
        ([torch.tensor([-4.0]), torch.tensor([5.0])], (-4.0, 5.0)),
        ([torch.zeros(3)], (0.0, 0.0)),
        ([], (0.0, 0.0)),
    ],
)
def test_minmax_holds_zero(batches: list[Tensor], expected: tuple[float, float]) -> None:
    assert observing(*batches).minmax() == expected


DISTRIBUTIONS = {
    "normal": lambda: torch.randn(20000),
    "relu": lambda: torch.randn(20000).relu(),
    "uniform": lambda: torch.rand(20000) * 3 - 1,
    "long tails": lambda: torch.randn(20000) ** 3,
    "negative": lambda: -(torch.rand(20000) ** 2),
    "mostly zero": lambda: torch.randn(20000).relu() * (torch.rand(20000) < 0.05),
    "two outliers": lambda: torch.cat([torch.randn(20000), torch.tensor([-9.0, 12.0])]),
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_mse_finds_what_trying_every_range_on_the_values_finds(kind: str) -> None:
    values = DISTRIBUTIONS[kind]()
    observer = observing(*values.split(3000))
    low, high = observer.mse()
    tried = [squared_error(values, observer.low * share, observer.high * share) for share in np.linspace(0.4, 1, 61)]
    assert squared_error(values, low, high) <= 1.03 * min(tried)
    assert observer.low <= low <= 0 <= high <= observer.high


def test_mse_of_nothing_but_zeros_is_no_range() -> None:
    assert observing(torch.zeros(10)).mse() == (0.0, 0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_no_number_names_the_tensor(bad: float) -> None:
    with pytest.raises(UserError) as error:
        observing(torch.ones(4), torch.tensor([1.0, bad]))
    assert str(error.value) == (
        "calibration met a NaN or an infinity in the output of 'layer1.relu'; check the model and its input"
    )


def test_memory_does_not_grow_with_the_batches() -> None:
    def size(observer: HistogramObserver) -> dict[str, object]:
        return {k: v.numel() if isinstance(v, Tensor) else type(v) for k, v in vars(observer).items() if not k.startswith("_")}

    batches = [torch.randn(50) * (1 + index) for index in range(100)]
    assert size(observing(*batches)) == size(observing(batches[0]))
    assert size(observing(*batches))["counts"] == BINS
