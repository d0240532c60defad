"""Ways to choose an activation's range from the values that it took; each gives (low, high) with low <= 0 <= high."""

from collections.abc import Callable

import numpy as np
import torch

from compress.quant.observers import HistogramObserver

Range = tuple[float, float]

# Shares of the observed range that a search tries; each about 5 % more than the one before.
SHARES = torch.logspace(-1, 0, 49).tolist()
LEVELS = 256


def minmax(seen: HistogramObserver) -> Range:
    """Every value seen. Clips nothing, and lets one outlier decide."""
    return seen.low, seen.high


def moving_average(seen: HistogramObserver) -> Range:
    """The moving average of the batches' extremes, the newest with a weight of 0.1.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 3.1.
    """
    low, high = seen.average or (0.0, 0.0)
    return min(low, 0.0), max(high, 0.0)


def percentile(seen: HistogramObserver, percent: float = 99.99) -> Range:
    """The range that holds `percent` of the values, with as many left out below as above.

    A tensor without values on one side of zero has an edge at zero there, and all that is left out is on the other.

    Source: McKinstry et al. 2019, "Discovering Low-Precision Networks Close to Full-Precision Networks", section 3.
    """
    total = float(seen.counts.sum()) + seen.zeros
    if seen.reach == 0:
        return 0.0, 0.0
    out = (1 - percent / 100) * total / (2 if seen.low < 0 < seen.high else 1)
    edge = 2 * seen.reach / len(seen.counts)
    low, high = seen.low, seen.high
    if low < 0:  # the last bin from below before which less than `out` values lie
        below = torch.searchsorted(seen.counts.cumsum(0), out, right=True)
        low = max(low, float(below) * edge - seen.reach)
    if high > 0:
        above = torch.searchsorted(seen.counts.flip(0).cumsum(0), out, right=True)
        high = min(high, seen.reach - float(above) * edge)
    return min(low, 0.0), max(high, 0.0)


def mse(seen: HistogramObserver) -> Range:
    """The range, within the one seen, whose 256 levels give the smallest mean squared error.

    Rounding costs scale^2 / 12 per value inside; clipping costs the squared distance to the edge outside. A one-sided
    tensor keeps its edge at zero.

    Source: Banner, Nahshan, Soudry 2019, "Post training 4-bit quantization of convolutional networks", section 3.
    """
    centers = seen.centers()

    def error(low: float, high: float) -> float:
        scale = (high - low) / (LEVELS - 1)
        clipped = (low - centers).clamp(min=0) + (centers - high).clamp(min=0)
        return float((seen.counts * torch.where(clipped == 0, scale**2 / 12, clipped**2)).sum())

    return _search(seen, error)


def entropy(seen: HistogramObserver) -> Range:
    """The range whose 256 levels lose the least information: the smallest Kullback-Leibler divergence.

    Of the histogram, with what lies outside counted at the edges, from itself after each level's values were spread evenly
    over the level's bins that hold any.

    Source: Migacz 2017, "8-bit Inference with TensorRT", slides 28 to 38.
    """
    # In numpy, which has one thread: those of torch would wait for each other at each of these small steps.
    centers, counts = seen.centers().numpy(), seen.counts.numpy()

    def divergence(low: float, high: float) -> float:
        start, stop = np.searchsorted(centers, low, "left"), np.searchsorted(centers, high, "right")
        if start == stop:
            return float("inf")
        kept = counts[start:stop]
        reference = kept.copy()
        reference[0] += counts[:start].sum()
        reference[-1] += counts[stop:].sum()
        level = np.rint((centers[start:stop] - low) / (high - low) * (LEVELS - 1)).astype(int).clip(0, LEVELS - 1)
        filled = reference > 0
        sums, bins = (np.bincount(level, each, LEVELS) for each in (kept, filled))
        spread = (sums / np.maximum(bins, 1))[level] * filled
        p, q = reference / counts.sum(), spread / max(spread.sum(), 1.0)
        alike = (p > 0) & (q > 0)
        # A level that is empty in the copy and not in the original is infinitely surprising; a large price keeps the order.
        return float((p[alike] * np.log(p[alike] / q[alike])).sum()) + 10.0 * float(p[(p > 0) & (q == 0)].sum())

    return _search(seen, divergence)


def _search(seen: HistogramObserver, error: Callable[[float, float], float]) -> Range:
    """The share of the observed range with the smallest error; the larger of two that are equally good."""
    if seen.reach == 0:
        return 0.0, 0.0
    tried = [(error(seen.low * share, seen.high * share), -share) for share in SHARES]
    share = -min(tried)[1]
    return seen.low * share, seen.high * share


METHODS: dict[str, Callable[[HistogramObserver], Range]] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def candidates(seen: HistogramObserver) -> list[Range]:
    """The different ranges that the methods propose, and two more percentiles, for a choice by what they do to a layer."""
    found = [method(seen) for method in METHODS.values()]
    found += [percentile(seen, 99.9), percentile(seen, 99.999)]
    return list(dict.fromkeys(found))
