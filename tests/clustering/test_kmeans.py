"""k-means against hand computation, against every partition of a few values, and against uniform quantization."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.clustering.kmeans import INITS, lloyd, nearest, share_values, start

SIX = np.array([0.0, 1.0, 2.0, 10.0, 11.0, 30.0])


def error(weight: Tensor, shared: Tensor) -> float:
    return float((weight.double() - shared.double()).square().sum())


def uniform(weight: Tensor, levels: int) -> Tensor:
    """Each value to the nearest of evenly spaced ones from the smallest to the largest."""
    low, high = weight.min().double(), weight.max().double()
    step = (high - low) / (levels - 1)
    return low + ((weight.double() - low) / step).round() * step


def best_error(ordered: np.ndarray, count: int) -> float:
    """The least error over all ways to cut sorted values into `count` ranges."""
    cuts = combinations(range(1, len(ordered)), count - 1)
    return min(sum(((part - part.mean()) ** 2).sum() for part in np.split(ordered, cut)) for cut in cuts)


def test_two_steps_by_hand() -> None:
    # From 0, 15 and 30: {0, 1, 2}, {10, 11}, {30}, and the means 1, 10.5 and 30 give the same clusters again.
    assert lloyd(SIX, np.array([0.0, 15.0, 30.0])).tolist() == [1.0, 10.5, 30.0]
    # From 0, 1 and 2 the clusters grow upwards step by step: {0}, {1}, {2, 10, 11, 30} have the means 0, 1, 13.25; half way
    # between 1 and 13.25 is 7.125, so {0}, {1, 2}, {10, 11, 30} with 0, 1.5, 17; then {0}, {1, 2}, and again the same.
    assert lloyd(SIX, np.array([0.0, 1.0, 2.0])).tolist() == [0.0, 1.5, 17.0]


def test_a_centroid_that_loses_its_values_moves_to_the_largest_error() -> None:
    # Nothing is nearest to 20. Around 0.5 and 10 lie {0, 1} and {9, 11}; 9 and 11 are the worse pair, and equally far.
    values = np.array([0.0, 1.0, 9.0, 11.0])
    assert lloyd(values, np.array([0.5, 10.0, 20.0])).tolist() == [0.5, 9.0, 11.0]


def test_starts_by_hand() -> None:
    assert start(SIX, 4, "linear").tolist() == [0.0, 10.0, 20.0, 30.0]
    # The middles of three parts with two values each, at 1/6, 3/6 and 5/6 of six values.
    assert start(SIX, 3, "density").tolist() == [1.0, 10.0, 30.0]
    torch.manual_seed(1)
    drawn = start(SIX, 4, "random")
    torch.manual_seed(1)
    assert drawn.tolist() == sorted(SIX[torch.randint(6, (4,)).numpy()])


def test_the_nearest_centroid() -> None:
    assert nearest(np.array([-1.0, 1.0, 4.0]), np.array([-9.0, -0.1, 0.0, 2.4, 2.6, 9.0])).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_weight_by_hand() -> None:
    weight = torch.tensor([[30.0, 0.5, 11.0], [1.5, 10.0, 0.25]])
    # From 0.25 and 30: everything up to 11 is nearer to 0.25. The means are 4.65 and 30, and so it stays.
    assert torch.equal(share_values(weight, 1), torch.tensor([[30.0, 4.65, 4.65], [4.65, 4.65, 4.65]]))
    # With a zero there is one value for the others: their mean.
    weight[0, 0] = 0
    assert torch.equal(share_values(weight, 1), torch.tensor([[0.0, 4.65, 4.65], [4.65, 4.65, 4.65]]))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_there_are_that_many_values_and_zeros_stay_zero(bits: int, init: str) -> None:
    weight = torch.randn(24, 6, 3, 3)
    dense = share_values(weight, bits, init)
    assert dense.shape == weight.shape and len(dense.unique()) == 2**bits
    weight[torch.rand_like(weight) < 0.6] = 0
    shared = share_values(weight, bits, init)
    assert torch.equal(shared == 0, weight == 0)
    assert len(shared.unique()) == 2**bits
    for value in shared.unique():  # each is the mean of those it stands for
        assert float(value) == pytest.approx(float(weight[shared == value].double().mean()), rel=1e-6, abs=1e-9)


def test_no_more_values_than_that_stay_as_they_are() -> None:
    weight = torch.tensor([[0.1, -0.3, 0.1], [0.7, 0.0, -0.3]])
    assert torch.equal(share_values(weight, 2), weight)
    assert torch.equal(share_values(torch.zeros(2, 3), 1), torch.zeros(2, 3))
    assert torch.equal(share_values(torch.full((2, 3), 0.3), 1), torch.full((2, 3), 0.3))


@pytest.mark.parametrize("init", INITS)
def test_the_result_is_a_local_optimum_and_never_better_than_the_best_partition(init: str) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        ordered = np.sort(np.random.default_rng(seed).normal(size=12))
        centroids = lloyd(ordered, start(ordered, 4, init))
        places = abs(ordered[:, None] - centroids).argmin(1)
        assert [ordered[places == place].mean() for place in range(4)] == pytest.approx(centroids.tolist())
        assert best_error(ordered, 4) <= ((ordered - centroids[places]) ** 2).sum() * (1 + 1e-9)


@pytest.mark.parametrize("bits", range(1, 9))
def test_never_worse_than_uniform_quantization(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    noise = torch.randn(4000, generator=generator)
    flat = torch.rand(4000, generator=generator)
    for weight in (noise, flat, noise**5, flat - 20, torch.cat([noise, torch.tensor([1e4])])):
        assert error(weight, share_values(weight, bits)) <= error(weight, uniform(weight, 2**bits)) * (1 + 1e-6)


def test_a_far_value_does_not_take_the_values_of_all_others() -> None:
    # Evenly spaced starts leave 30 of 32 values without a weight here; k-means must not leave them there.
    weight = torch.cat([torch.randn(4000, generator=torch.Generator().manual_seed(0)), torch.tensor([1e3])])
    shared = share_values(weight, 5)
    assert len(shared.unique()) == 32
    assert error(weight, shared) < 0.01 * 4000


def test_half_precision_stays_half_precision() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        shared = share_values(torch.randn(20, 20).to(dtype), 3)
        assert shared.dtype == dtype and len(shared.unique()) <= 8
