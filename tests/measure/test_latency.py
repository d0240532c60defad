"""The timing loop on a clock that only the calls move, and the interval of a ratio on samples whose ratio is known."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from compress.measure import latency
from compress.measure.latency import BLOCK_SECONDS, Latency, ratio_with_interval, time_interleaved, time_one
from compress.progress import watch


class Clock:
    """Time passes only in calls, each of a length of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds
            self.calls.append(name)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_a_fast_call_runs_for_the_least_time(clock: Clock) -> None:
    times = time_one(clock.call("a", 0.001), min_runs=50, min_seconds=2.0, max_seconds=20.0)
    assert times == pytest.approx(1.0)
    assert 2.0 <= clock.now <= 2.0 + 2 * BLOCK_SECONDS


def test_a_slow_call_runs_for_the_least_number(clock: Clock) -> None:
    times = time_one(clock.call("a", 0.15), min_runs=50, min_seconds=2.0, max_seconds=20.0)
    assert len(times) == 50
    assert times == pytest.approx(150.0)


def test_no_call_runs_longer_than_the_most_time(clock: Clock) -> None:
    times = time_one(clock.call("a", 0.7), min_runs=50, min_seconds=2.0, max_seconds=20.0)
    assert len(times) == 15  # a block is one call that does not count and one that does: 1.4 s
    assert 20.0 <= clock.now <= 20.0 + 4 * 1.4


def test_a_call_longer_than_the_most_time_is_still_timed_once(clock: Clock) -> None:
    assert time_one(clock.call("a", 100.0), min_runs=50, min_seconds=2.0, max_seconds=20.0).tolist() == pytest.approx([1e5])


@pytest.mark.parametrize("limits", [(0, 0.0, 20.0), (0, 0.0, 0.0), (7, 0.0, 20.0), (0, 0.5, 20.0)])
def test_limits_of_zero_are_no_limits(limits: tuple[int, float, float], clock: Clock) -> None:
    runs, least, most = limits
    times = time_one(clock.call("a", 0.2), min_runs=runs, min_seconds=least, max_seconds=most)
    assert len(times) == max(1, runs, 2 if least else 0)


def test_candidates_alternate_in_blocks_of_like_length(clock: Clock) -> None:
    calls = {"slow": clock.call("slow", 0.03), "fast": clock.call("fast", 0.01)}
    times = time_interleaved(calls, min_runs=20, min_seconds=0.5, max_seconds=20.0)
    blocks: list[tuple[str, int]] = []
    for name in clock.calls[10:]:  # behind five calls each that warm up
        if blocks and blocks[-1][0] == name:
            blocks[-1] = (name, blocks[-1][1] + 1)
        else:
            blocks.append((name, 1))
    assert clock.calls[:10] == ["slow"] * 5 + ["fast"] * 5
    assert [name for name, _ in blocks] == ["slow", "fast"] * (len(blocks) // 2)
    assert dict(blocks) == {"slow": 4, "fast": pytest.approx(10, abs=1)}
    # All candidates get every round, also once they have enough; the first call of each block is not counted.
    assert len(times["slow"]) == 3 * len(blocks) / 2 >= 20
    assert len(times["fast"]) == sum(count - 1 for name, count in blocks if name == "fast")
    assert times["slow"] == pytest.approx(30.0)
    assert times["fast"] == pytest.approx(10.0)


def test_warming_up_ends_early_for_slow_calls(clock: Clock) -> None:
    time_one(clock.call("a", 3.0), min_runs=1, min_seconds=0.0, max_seconds=20.0)
    assert len(clock.calls) == 1 + 2


def test_progress_ends_at_the_end(clock: Clock) -> None:
    seen: list[tuple[str, int, int | None]] = []
    with watch(lambda what, done, total, note: seen.append((what, done, total))):
        time_one(clock.call("a", 0.7), min_runs=50, min_seconds=2.0, max_seconds=20.0)
    assert seen[-1] == ("measure latency", 100, 100)
    done = [step[1] for step in seen]
    assert done == sorted(done)
    assert done[0] < 10


def test_percentiles_and_throughput() -> None:
    times = Latency(np.arange(1, 102, dtype=float), batch=4)
    assert (times.p50, times.percentile(90), times.percentile(99)) == (51.0, 91.0, 100.0)
    assert times.throughput == pytest.approx(4 / 0.051)


def drifting(generator: np.random.Generator, median: float, count: int) -> np.ndarray:
    """Milliseconds with spikes, around a speed that wanders, so that neighbours resemble each other."""
    noise, wandering = generator.normal(0, 0.05, count), np.zeros(count)
    for index in range(1, count):
        wandering[index] = 0.8 * wandering[index - 1] + 0.6 * noise[index]
    return median * np.exp(wandering) + median * (generator.random(count) < 0.02)


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    generator, covered = np.random.default_rng(0), 0
    for seed in range(100):
        slow, fast = drifting(generator, 12.0, 400), drifting(generator, 3.0, 900)
        ratio, low, high = ratio_with_interval(slow, fast, seed)
        assert low <= ratio <= high
        assert ratio == pytest.approx(4.0, rel=0.05)
        covered += low <= 4.0 <= high
    assert covered >= 90  # resampling single calls, as if they were independent, gives 58


def test_the_same_sample_has_the_ratio_one() -> None:
    sample = drifting(np.random.default_rng(0), 5.0, 300)
    ratio, low, high = ratio_with_interval(sample, sample)
    assert ratio == 1.0
    assert 0.95 < low <= 1.0 <= high < 1.05


def test_samples_without_spread_have_no_interval() -> None:
    assert ratio_with_interval(np.full(50, 6.0), np.full(70, 2.0)) == (3.0, 3.0, 3.0)
    assert ratio_with_interval(np.array([8.0]), np.array([2.0])) == (4.0, 4.0, 4.0)


def test_the_interval_is_the_same_on_each_call() -> None:
    slow, fast = (drifting(np.random.default_rng(seed), 4.0, 100) for seed in (1, 2))
    assert ratio_with_interval(slow, fast) == ratio_with_interval(slow, fast)
    assert ratio_with_interval(slow, fast) != ratio_with_interval(slow, fast, seed=1)


def test_a_histogram_counts_every_call_once() -> None:
    samples = np.random.default_rng(0).gamma(2.0, 1.0, 1000) + 3
    found = Latency(samples).histogram()
    low, high = found["low_ms"], found["high_ms"]
    assert (low, high) == (pytest.approx(samples.min(), abs=1e-6), pytest.approx(np.percentile(samples, 99), abs=1e-6))
    width = (high - low) / 40
    by_hand = [0] * 40
    for sample in samples[samples <= high]:
        by_hand[min(int((sample - low) / width), 39)] += 1
    assert sum(abs(a - b) for a, b in zip(found["counts"], by_hand, strict=True)) <= 2  # edges are rounded
    assert found["above"] == (samples > high).sum() == 10
    assert sum(found["counts"]) + found["above"] == 1000


@pytest.mark.parametrize("samples", [[0.5], [0.5, 0.5, 0.5]])
def test_calls_that_took_the_same_are_in_the_first_bin(samples: list[float]) -> None:
    found = Latency(np.array(samples)).histogram()
    assert (found["counts"], found["above"]) == ([len(samples), *[0] * 39], 0)
    assert found["low_ms"] == 0.5 < found["high_ms"]


def test_a_long_tail_does_not_hide_the_others() -> None:
    samples = np.array([1.0, 1.1, 1.2, 1.3, 50.0])
    found = Latency(samples).histogram()
    assert found["high_ms"] == pytest.approx(3 * 1.2)
    assert (sum(found["counts"]), sum(map(bool, found["counts"])), found["above"]) == (4, 4, 1)
