"""k-means in one dimension: a tensor's weights replaced by a few shared values."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

INITS = ("linear", "density", "random")
# Lloyd's iteration ends when no value changes its cluster. On millions of values that may take thousands of ever smaller
# steps; one costs microseconds per cluster, since clusters of sorted values are ranges.
STEPS = 1000

Floats = NDArray[np.float64]


def share_values(weight: Tensor, bits: int, init: str = "linear") -> Tensor:
    """`weight` with at most 2^bits different values, each the mean of those it stands for; same shape, dtype and device.

    What is exactly zero stays exactly zero: a pruned tensor gives one of its 2^bits values to the zeros, and the others share
    the rest. A tensor with no more different values than that comes back unchanged.

    Source: Han, Mao, Dally 2016, "Deep Compression", section 3.

    Args:
        weight: of any shape, with finite values.
        bits: at least 1.
        init: where the clusters start, see `start`. `random` draws from torch's global generator.
    """
    values = weight.detach().cpu().flatten()
    flat = values.float().numpy() if values.dtype in (torch.float16, torch.bfloat16) else values.numpy()
    zero = flat == 0
    ordered = np.sort(flat[~zero]).astype(np.float64)  # sorted before widening, which is several times faster
    count = 2**bits - int(zero.any())
    if (np.diff(ordered) > 0).sum() + 1 <= count:
        return weight.detach().clone()
    centroids = lloyd(ordered, start(ordered, count, init))
    shared = np.where(zero, 0.0, centroids[nearest(centroids, flat)])
    return torch.from_numpy(shared).to(weight.dtype).view(weight.shape).to(weight.device)


def start(ordered: Floats, count: int, init: str) -> Floats:
    """The first `count` centroids (count,), sorted.

    `linear` spaces them evenly from the smallest to the largest value, `density` puts equally many values around each, and
    `random` takes values at random (Forgy). Large weights are few and matter most, and `linear` alone starts near them.

    Source: Han, Mao, Dally 2016, section 3.2.

    Args:
        ordered: (n,), sorted.
    """
    if init == "linear":
        return np.linspace(ordered[0], ordered[-1], count)
    if init == "density":
        return ordered[((np.arange(count) + 0.5) / count * len(ordered)).astype(np.int64)]
    assert init == "random", init
    return np.sort(ordered[torch.randint(len(ordered), (count,)).numpy()])


def nearest(centroids: Floats, values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Position of the nearest centroid, for each of `values` (n,); half way, the upper one."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="right")


def lloyd(ordered: Floats, centroids: Floats) -> Floats:
    """The centroids (k,), sorted, at which the sum of squared distances to the nearest one can be lowered by neither step.

    The steps are: each value to its nearest centroid, each centroid to the mean of its values. Neither raises the sum, so
    that the result is never worse than the start. A centroid without values moves to the far end of the cluster with the
    largest sum, which lowers it, too. Stops after `STEPS` at the latest.

    Args:
        ordered: (n,), sorted, of more than k different values.
        centroids: (k,), sorted.

    Source: Lloyd 1982, "Least Squares Quantization in PCM", method I.
    """
    count = len(centroids)
    sums, squares = (np.concatenate([[0.0], np.cumsum(x)]) for x in (ordered, ordered**2))
    before: NDArray[np.int64] | None = None
    for _ in range(STEPS):
        edges = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        edges = np.unique(np.concatenate([[0], edges, [len(ordered)]]))  # cluster i is ordered[edges[i]:edges[i+1]]
        if before is not None and np.array_equal(edges, before):
            break
        before = edges
        means = np.diff(sums[edges]) / np.diff(edges)
        lost = count - len(means)
        if lost:
            errors = np.diff(squares[edges]) - np.diff(sums[edges]) * means
            means = np.sort(np.concatenate([means, _far_ends(ordered, edges, means, errors)[:lost]]))
            before = None
        centroids = means
    return centroids


def _far_ends(ordered: Floats, edges: NDArray[np.int64], means: Floats, errors: Floats) -> Floats:
    """Of each cluster with more than one value, the value farthest from its mean; the cluster with the largest error first."""
    low, high = ordered[edges[:-1]], ordered[edges[1:] - 1]
    ends = np.where(high - means > means - low, high, low)
    order = np.argsort(-errors, kind="stable")
    return ends[order][(high > low)[order]]
