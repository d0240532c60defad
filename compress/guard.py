"""Int8 within a bound: layers go back to float, one after another, until the score has lost no more than was allowed."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from compress.gauge import Gauge
from compress.progress import report

Layers = tuple[str, ...]
# How many layers are tried in each round, those with the largest cheap error.
PROPOSALS = 3
# What a layer in float costs at least, as a share of the latency: less than this is noise of the clock.
NOISE = 0.01


@dataclass(frozen=True)
class Trial:
    """A network with some layers in float, as its file was measured.

    Attributes:
        in_float: the layers, in the order in which they went back.
        score: on the validation data; `drop`: what the network before int8 scores more.
        latency_ms: p50 at batch 1; `extra_ms`: over the network with everything in integers, timed beside it.
        seconds: that it took to make and to measure.
    """

    in_float: Layers
    score: float
    drop: float
    latency_ms: float
    extra_ms: float
    seconds: float


@dataclass(frozen=True)
class Bound:
    """How far a search goes.

    Args:
        drop: the most that the score may lose, a fraction.
        seconds: after which no further network is begun; None is no limit.
    """

    drop: float
    seconds: float | None = None

    def holds(self, trial: Trial) -> bool:
        return trial.drop <= self.drop + 1e-9  # 0.93 - 0.925 is a little more than 0.005


@dataclass(frozen=True)
class Guarded:
    """What a search found.

    Attributes:
        bound: that was asked for.
        chosen: the fastest trial within the bound; where there is none, the one with the best score.
        met: whether it is within the bound.
        ended: what ends a search without success.
        score: of the network before int8, on the validation data.
        trials: all of them, in the order in which they were measured.
    """

    bound: Bound
    chosen: Trial
    met: bool
    ended: str
    score: float
    trials: tuple[Trial, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the report."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def summary(self) -> str:
        """One sentence: whether the bound holds, at what loss, and what it took."""
        layers = f" with {', '.join(self.chosen.in_float)} in float" if self.chosen.in_float else " with all layers in integers"
        tried = f"{len(self.trials)} network" + ("s" if len(self.trials) != 1 else "")
        lost = f"{100 * self.chosen.drop:.2f} points lost on the validation data{layers}; {tried} tried"
        if self.met:
            return f"at most {100 * self.bound.drop:g} points may be lost: {lost}"
        return f"not within {100 * self.bound.drop:g} points, {self.ended}; the best: {lost}"


def guarded(
    original: nn.Module,
    quantize: Callable[[Layers], nn.Module],
    propose: Callable[[Layers], Sequence[str]],
    gauge: Gauge,
    bound: Bound,
    log: Path | None = None,
) -> Guarded:
    """Search for the fastest network that loses no more than the bound allows; whenever it stops, the best so far counts.

    Starts with everything in integers. In each round the layers of the largest cheap error go back to float, each by itself,
    and the one stays there that gives the most score for a millisecond; a cheap error only proposes, the score decides. Once
    the bound holds, each layer that went back is tried in integers again. At least one layer stays in integers.

    Args:
        original: the network before int8.
        quantize: gives the network with these layers, and no others, in float.
        propose: gives the layers that are then left in integers, the largest cheap error first.
        gauge: with a judge, which is asked once for each network.
        log: a file that gets every trial as a line of JSON, and whose trials are not measured again.
    """
    assert gauge.judge is not None
    begun, history = time.monotonic(), _Log(log)
    integers = gauge.write(quantize(()), "integers")
    if history.score is None:
        history.score = gauge.score(gauge.write(original, "original"))
        history.write({"score": history.score})
    score = history.score
    assert score is not None

    def measure(in_float: Layers) -> Trial:
        start = time.monotonic()
        path = gauge.write(quantize(in_float), "trial") if in_float else integers
        found = gauge.score(path)
        assert found is not None
        before, after = gauge.latencies_ms(integers, path)
        extra = after - before if in_float else 0.0
        return Trial(in_float, found, score - found, after, extra, time.monotonic() - start)

    return search(measure, propose, bound, score, history, begun)


def search(
    measure: Callable[[Layers], Trial],
    propose: Callable[[Layers], Sequence[str]],
    bound: Bound,
    score: float,
    history: "_Log | None" = None,
    begun: float | None = None,
) -> Guarded:
    """The search of `guarded`, over whatever measures and proposes.

    Args:
        measure: makes and measures a network.
        propose: the layers of a network that are in integers, the most promising first.
        score: of the network before int8.
        history: earlier trials, and where new ones are kept.
        begun: from where the time counts, on the monotonic clock; None is now.
    """
    trials = _Trials(measure, bound, history or _Log(None), time.monotonic() if begun is None else begun)
    ended = "every proposal was tried"
    try:
        current = trials.of(())
        while not bound.holds(current):
            names = propose(current.in_float)
            if len(names) < 2:  # the last one stays: the network without integers is there already
                break
            options = [trials.of((*current.in_float, name)) for name in names[:PROPOSALS]]
            current = _best_buy(current, options, NOISE * trials.of(()).latency_ms)
        else:
            for name in current.in_float[:-1]:
                without = trials.of(tuple(other for other in current.in_float if other != name))
                current = without if bound.holds(without) else current
    except _OutOfTime:
        ended = f"the time budget of {bound.seconds:g} s is used up"
    found = trials.all
    within = [trial for trial in found if bound.holds(trial)]
    chosen = min(within, key=lambda trial: trial.extra_ms) if within else max(found, key=lambda trial: trial.score)
    return Guarded(bound, chosen, bool(within), ended, score, tuple(found))


def _best_buy(current: Trial, options: Sequence[Trial], least_ms: float) -> Trial:
    """The option with the most score for a millisecond; the first, whose cheap error is largest, where none gains any."""

    def rate(option: Trial) -> float:
        return (option.score - current.score) / max(option.extra_ms - current.extra_ms, least_ms)

    best = max(options, key=rate)
    return best if rate(best) > 0 else options[0]


class _OutOfTime(Exception):
    """No time is left for another trial."""


@dataclass
class _Trials:
    """Measures each set of layers once, while there is time; the first is always measured."""

    measure: Callable[[Layers], Trial]
    bound: Bound
    history: "_Log"
    begun: float

    @property
    def all(self) -> list[Trial]:
        return list(self.history.trials.values())

    def of(self, in_float: Layers) -> Trial:
        known = self.history.trials
        key = frozenset(in_float)
        if key not in known:
            # What an interrupted search took counts, too; and a trial that would end too late is not begun.
            spent = time.monotonic() - self.begun + self.history.seconds
            longest = max((trial.seconds for trial in known.values()), default=0.0)
            if known and self.bound.seconds is not None and spent + longest > self.bound.seconds:
                raise _OutOfTime
            self.history.add(self.measure(in_float))
        report("keeping the accuracy", len(known), None, f"{known[key].drop:+.4f} with {len(key)} layers in float")
        return known[key]


class _Log:
    """Trials by their layers in float, and the file, if any, that holds them.

    Attributes:
        score: of the network before int8; None where it is not known yet.
        seconds: that the trials in the file took.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.score: float | None = None
        self.trials: dict[frozenset[str], Trial] = {}
        for line in path.read_text(encoding="utf8").splitlines() if path is not None and path.exists() else ():
            try:
                values = json.loads(line)
            except ValueError:  # empty, or killed while it was written
                continue
            if "in_float" in values:
                trial = Trial(**{**values, "in_float": tuple(values["in_float"])})
                self.trials[frozenset(trial.in_float)] = trial
            else:
                self.score = values["score"]
        self.seconds = sum(trial.seconds for trial in self.trials.values())

    def add(self, trial: Trial) -> None:
        self.trials[frozenset(trial.in_float)] = trial
        self.write(asdict(trial))

    def write(self, values: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf8") as lines:
                lines.write("\n" + json.dumps(values))  # not behind a line in which an earlier run was killed
