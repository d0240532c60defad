"""Ranges measured batch by batch, against the same figures computed on all values at once."""

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.errors import UserError
from compress.quant.observers import BINS, COUNTED, HistogramObserver


def observing(*batches: Tensor) -> HistogramObserver:
    observer = HistogramObserver("the output of 'layer1.relu'")
    for batch in batches:
        assert observer(batch) is batch
    return observer


def test_widening_keeps_every_count_and_covers_the_extremes() -> None:
    batches = [torch.randn(500) * scale for scale in (0.01, 1.0, 0.1, 30.0, 4.0)]
    observer, everything = observing(*batches), torch.cat(batches).numpy()
    assert observer.counts.sum().item() == 2500
    assert (observer.low, observer.high) == (everything.min(), everything.max())
    assert observer.reach >= np.abs(everything).max()
    assert observer.zeros == 0
    at_once, _ = np.histogram(everything, BINS, (-observer.reach, observer.reach))
    moved = np.abs(observer.counts.numpy() - at_once).sum() / 2
    assert moved <= 5  # values that lie on the edge of two bins, up to float32's rounding


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


@pytest.mark.parametrize("shape", [(6, 64, 56, 56), (3, 3, 224, 224), (8, 512, 200), (9, 30, 30, 42)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_of_a_large_tensor_some_values_are_counted_and_none_is_preferred(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    """Each value is its place along one axis, so that a step that falls into step with the axis would miss some."""
    for axis in range(1, len(shape)):
        places = torch.arange(shape[axis]).view(-1, *[1] * (len(shape) - axis - 1)) + 1.0
        x = places.expand(shape).contiguous()
        observer = observing(x.contiguous(memory_format=layout) if x.ndim == 4 else x)
        counted = observer.counts[observer.counts > 0]
        assert COUNTED / 2 < counted.sum() < 3 * COUNTED
        assert len(counted) == shape[axis]
        assert counted.max() < 1.1 * counted.min() + 2
        assert observer.high == shape[axis]


def test_of_a_large_tensor_no_extreme_is_missed() -> None:
    x = torch.zeros(2, 3, 400, 400)
    x[1, 2, 399, 398], x[0, 1, 7, 5] = 9.0, -4.0
    observer = observing(x)
    assert (observer.low, observer.high) == (-4.0, 9.0)
    assert COUNTED / 2 < observer.zeros < 2 * COUNTED
