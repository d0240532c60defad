"""One timing loop for every runtime, and the ratio of two that were timed side by side."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.progress import report

MIN_RUNS = 50
MIN_SECONDS = 2.0
MAX_SECONDS = 20.0
# Long enough that a model's block is not about the caches it finds cold, nor about the other runtime's threads, which spin
# for about a millisecond after their last call; short enough that a drift of the machine meets all candidates alike.
BLOCK_SECONDS = 0.1
BINS, TAIL = 40, 3.0


@dataclass(frozen=True)
class Latency:
    """Times of single calls, in milliseconds."""

    samples_ms: np.ndarray
    batch: int = 1
    runtime: str = ""
    threads: int = 1

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.samples_ms, percent))

    @property
    def p50(self) -> float:
        return self.percentile(50)

    @property
    def throughput(self) -> float:
        """Samples per second, from the mean time of a call."""
        return 1000 * self.batch / float(self.samples_ms.mean())

    def histogram(self) -> dict[str, Any]:
        """`counts` of calls in equal bins between `low_ms`, the fastest, and `high_ms`, and how many were `above` that.

        `high_ms` is the 99th percentile, or three times the median if that is less: the slowest, whatever else the machine
        did meanwhile, would push all others into one bin.
        """
        low = float(self.samples_ms.min())
        high = max(min(self.percentile(99), TAIL * self.p50), 1.01 * low)  # wide enough for calls that all took the same
        counts, _ = np.histogram(self.samples_ms, BINS, (low, high))
        above = int((self.samples_ms > high).sum())
        return {"low_ms": round(low, 6), "high_ms": round(high, 6), "counts": counts.tolist(), "above": above}


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    min_runs: int = MIN_RUNS,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
) -> dict[str, np.ndarray]:
    """Milliseconds of each call of each candidate, in short blocks that alternate between the candidates.

    Each candidate is warmed up, then called at least `min_runs` times and for `min_seconds`, but no longer than
    `max_seconds` (and at least once). The first call of a block refills the caches and is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    for call in calls.values():
        _warm_up(call, max_seconds / 10)

    def share(name: str) -> float:
        """How far a candidate is: 1 where it needs no more calls."""
        wanted = min(_part(len(times[name]), min_runs), _part(spent[name], min_seconds))
        return min(1.0, max(wanted, _part(spent[name], max_seconds)))

    while not all(times.values()) or any(share(name) < 1 for name in calls):
        # All candidates get every round, so that the last rounds are not those of the slow ones alone.
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            while True:
                start = time.perf_counter()
                call()
                end = time.perf_counter()
                times[name].append((end - start) * 1000)
                if end - begun >= BLOCK_SECONDS:
                    break
            spent[name] += time.perf_counter() - begun
        report("measure latency", int(100 * min(map(share, calls))), 100)
    return {name: np.array(values) for name, values in times.items()}


def _part(done: float, wanted: float) -> float:
    return done / wanted if wanted > 0 else 1.0


def _warm_up(call: Callable[[], object], seconds: float) -> None:
    """Five calls, or as many as fit into `seconds`, but at least one."""
    start = time.perf_counter()
    for _ in range(5):
        call()
        if time.perf_counter() - start > seconds:
            return


def time_one(call: Callable[[], object], **limits: float) -> np.ndarray:
    """Milliseconds of each call of one candidate; see `time_interleaved`."""
    return time_interleaved({"": call}, **limits)[""]  # type: ignore[arg-type]


def ratio_with_interval(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Ratio of the medians of two samples, and its 95 % bootstrap interval.

    Blocks of consecutive calls are resampled, not single calls: neighbours in time resemble each other, and an interval
    that ignores it is too narrow.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", sections 8.6 and 13.3.
    """
    generator = np.random.default_rng(seed)
    medians = [_resampled_medians(sample, generator) for sample in (numerator, denominator)]
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(np.median(numerator) / np.median(denominator)), float(low), float(high)


def _resampled_medians(sample: np.ndarray, generator: np.random.Generator, draws: int = 1000) -> np.ndarray:
    blocks = np.array_split(sample, min(len(sample), 20))
    # A median of block medians: as robust, and a thousand times cheaper than resampling every call.
    centers = np.array([np.median(block) for block in blocks])
    return np.median(generator.choice(centers, (draws, len(centers))), axis=1)
