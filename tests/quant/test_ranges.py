"""Ways to choose a range, each against a search over the values themselves."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.quant.fake_quantize import ActivationQuantizer
from compress.quant.observers import HistogramObserver
from compress.quant.ranges import METHODS, SHARES, candidates, entropy, minmax, moving_average, mse, percentile


def observing(*batches: Tensor) -> HistogramObserver:
    observer = HistogramObserver("layer1.relu")
    for batch in batches:
        observer(batch)
    return observer


def squared_error(values: Tensor, low: float, high: float) -> float:
    quantizer = ActivationQuantizer()
    quantizer.set_range(low, high)
    return float((quantizer(values) - values).double().square().mean())


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
    assert minmax(observing(*batches)) == expected


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
    low, high = mse(observer)
    tried = [squared_error(values, observer.low * share, observer.high * share) for share in SHARES]
    assert squared_error(values, low, high) <= 1.03 * min(tried)
    assert observer.low <= low <= 0 <= high <= observer.high


@pytest.mark.parametrize("name", METHODS)
def test_of_nothing_but_zeros_there_is_no_range(name: str) -> None:
    assert METHODS[name](observing(torch.zeros(10))) == (0.0, 0.0)
    assert METHODS[name](observing()) == (0.0, 0.0)


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9])
def test_a_percentile_is_that_of_the_values(kind: str, percent: float) -> None:
    values = DISTRIBUTIONS[kind]()
    observer = observing(*values.split(3000))
    low, high = percentile(observer, percent)
    two_sided = observer.low < 0 < observer.high
    out = (100 - percent) / (2 if two_sided else 1)
    bin_width = 2 * observer.reach / len(observer.counts)
    # numpy's quantile lies between two of the values; ours at the edge of a bin.
    for side, given, tail in (("below", low, out), ("above", high, 100 - out)):
        if (observer.low if side == "below" else observer.high) == 0:
            assert given == 0
            continue
        kind_of = {"below": "lower", "above": "higher"}[side]
        exact = np.percentile(values.double().numpy(), tail, method=kind_of)
        exact = min(exact, 0.0) if side == "below" else max(exact, 0.0)
        assert given == pytest.approx(exact, abs=2 * bin_width)


def divergence(values: np.ndarray, low: float, high: float, edges: np.ndarray) -> float:
    """Kullback-Leibler divergence of the 256 levels of a range, level by level and bin by bin."""
    counts, _ = np.histogram(values, edges)
    centers = (edges[:-1] + edges[1:]) / 2
    inside = [index for index, center in enumerate(centers) if low <= center <= high]
    reference = {index: float(counts[index]) for index in inside}
    reference[inside[0]] += float(counts[: inside[0]].sum())
    reference[inside[-1]] += float(counts[inside[-1] + 1 :].sum())
    copy = dict.fromkeys(inside, 0.0)
    levels: dict[int, list[int]] = {}
    for index in inside:
        levels.setdefault(round((centers[index] - low) / (high - low) * 255), []).append(index)
    for members in levels.values():
        filled = [index for index in members if reference[index] > 0]
        for index in filled:
            copy[index] = sum(float(counts[member]) for member in members) / len(filled)
    total, kept, found = sum(reference.values()), sum(copy.values()), 0.0
    for index in inside:
        if reference[index] > 0:
            p, q = reference[index] / total, copy[index] / kept
            found += p * math.log(p / q) if q > 0 else 10.0 * p
    return found


@pytest.mark.parametrize("kind", ["normal", "relu", "long tails", "two outliers"])
def test_entropy_finds_the_smallest_divergence(kind: str) -> None:
    values = DISTRIBUTIONS[kind]()
    observer = observing(values)
    low, high = entropy(observer)
    edges = np.linspace(-observer.reach, observer.reach, len(observer.counts) + 1)
    array = values[values != 0].double().numpy()
    some = [*SHARES[::6], 1.0]
    tried = [divergence(array, observer.low * share, observer.high * share, edges) for share in some]
    assert divergence(array, low, high, edges) <= 1.01 * min(tried) + 1e-6
    assert observer.low <= low <= 0 <= high <= observer.high


def test_the_moving_average_weighs_the_newest_batch_with_a_tenth() -> None:
    observer = observing(torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 7.0]))
    assert moving_average(observer) == pytest.approx((-1.2, 2.5))
    assert moving_average(observing(torch.tensor([1.0, 2.0]))) == (0.0, 2.0)


def test_candidates_differ_and_hold_every_method() -> None:
    observer = observing(*(torch.randn(20000) ** 3).split(3000))
    found = candidates(observer)
    assert len(found) == len(set(found)) >= len(METHODS)
    assert set(found) >= {method(observer) for method in METHODS.values()}


@pytest.mark.parametrize("values", [torch.full((9,), 3.0), torch.full((9,), 1e30), torch.full((9,), 1e-30), -torch.rand(99)])
def test_unusual_values_have_a_range_too(values: Tensor) -> None:
    observer = observing(values)
    for name, method in METHODS.items():
        low, high = method(observer)
        assert observer.low <= low <= 0 <= high <= observer.high, name
        assert high - low > 0.09 * (observer.high - observer.low), name
