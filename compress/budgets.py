"""A budget for a pruned network in its user's own unit, and the ratio that meets it."""

import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from compress.errors import UserError, did_you_mean
from compress.export import export_onnx, signature
from compress.measure import count_macs, count_parameters, open_onnx, time_interleaved
from compress.measure.layers import LayerTable, layer_shapes
from compress.progress import report
from compress.pruning.channels import ChannelPruner

KINDS = ("macs", "params", "size", "latency")
UNITS = {
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "size": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9},
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
}
SHOWN = {"macs": ("MACs", "MMACs"), "params": ("parameters", "M parameters"), "size": ("bytes", "MB")}
# The largest ratio that is tried: every group at its narrowest.
MOST = 0.9999
TOLERANCE = 0.05
TRIALS = 10  # networks that are measured
MORE = 3  # further ones, each time that a second measurement refuses what the first one accepted
# One timing of a network beside the baseline, in seconds, and the least and the most of them before it is judged.
TIMING = {"min_runs": 10, "min_seconds": 0.3, "max_seconds": 5.0}
ROUNDS = (3, 12)
# Student's t at 97.5 %, for 2, 3, ... 12 timings.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)


@dataclass(frozen=True)
class Budget:
    """What the pruned network may cost.

    Attributes:
        kind: one of `KINDS`.
        value: a fraction of the baseline, or MACs, parameters, bytes or milliseconds.
        fraction: which of the two.
    """

    kind: str
    value: float
    fraction: bool

    def limit(self, baseline: float) -> float:
        """In the kind's own unit."""
        return self.value * baseline if self.fraction else self.value

    def show(self, value: float) -> str:
        """A number of the kind's unit as text, such as `49.0 MMACs`."""
        if self.kind == "latency":
            return f"{value:.4g} ms"
        small, large = SHOWN[self.kind]
        return f"{value:.0f} {small}" if value < 1e5 else f"{value / 1e6:.4g} {large}"


def parse(text: str, what: str = "target") -> Budget:
    """`macs=0.5` (a fraction of the baseline), `params=1.2M`, `size=5MB`, `latency=3ms`.

    Raises:
        UserError: anything else; says what would be right.
    """
    kind, _, value = (part.strip() for part in text.partition("="))
    if kind not in KINDS:
        raise UserError(f"{what} must be macs, params, size or latency, got '{text}'." + did_you_mean(kind, list(KINDS)))
    match = re.fullmatch(r"([0-9.]+(?:e-?[0-9]+)?)\s*([a-zA-Z]*)", value)
    units = UNITS[kind]
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    unit = match[2].lower() if match else ""
    if unit == "" and 0 < number < 1:
        return Budget(kind, number, True)
    if unit not in units or not number > 0 or (unit == "" and number < 1000):
        known = " or ".join(f"{kind}=3{unit}" if unit else f"{kind}=3000" for unit in list(units)[:3])
        raise UserError(f"{what} must be a fraction of the baseline in (0, 1), such as {kind}=0.5, or {known}; got '{text}'")
    return Budget(kind, number * units[unit], False)


@dataclass(frozen=True)
class Cost:
    """A measured cost in its budget's unit; `spread` is half of its 95 % interval, and 0 where it is exact."""

    value: float
    spread: float = 0.0

    def within(self, limit: float) -> bool:
        """At most the limit, and hardly more even if all of the spread were bad luck."""
        return self.value <= limit and self.value + self.spread <= limit * (1 + TOLERANCE)

    def near(self, limit: float) -> bool:
        """As close as can be asked for: within 5 % of the limit, or within the spread."""
        return self.value >= limit - max(TOLERANCE * limit, self.spread)


@dataclass(frozen=True)
class Answer:
    """The ratio found, and the costs at it, in the budget's unit.

    Attributes:
        spread: half of the 95 % interval of a measured cost; 0 where it is counted.
        gave_up_after: how many networks were measured, where none came near the limit and others might; else None.
    """

    ratio: float
    baseline: float
    limit: float
    cost: float
    spread: float = 0.0
    gave_up_after: int | None = None


def ratio_for(
    budget: Budget,
    pruner: ChannelPruner,
    reference: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    threads: int = 1,
    table: LayerTable | None = None,
) -> Answer:
    """The smallest ratio whose network is within the budget; size and latency are those of written files.

    Groups whose cut does not stand the comparison with the original are protected on the way, in `pruner`.

    Args:
        reference: the network that fractions refer to.
        threads: of the runtime that is timed.
        table: layer times to search in; a wrong one costs time and changes nothing in the answer.

    Raises:
        UserError: no ratio is enough; says how close one can get.
    """
    with tempfile.TemporaryDirectory() as folder:
        search = _search(budget, pruner, reference, example_inputs, Path(folder), table or LayerTable(threads))
        while True:
            protected = _protected(pruner)
            answer = search()
            pruner.verified(answer.ratio)
            if _protected(pruner) == protected:  # else costs from before and after were mixed
                return answer


def _protected(pruner: ChannelPruner) -> int:
    return sum(group.fixed is not None for group in pruner.groups)


def _search(
    budget: Budget,
    pruner: ChannelPruner,
    reference: nn.Module,
    example_inputs: tuple[Tensor, ...],
    folder: Path,
    table: LayerTable,
) -> Callable[[], Answer]:
    """The search for one budget, to be called again where it protected a group."""

    def cut(ratio: float) -> nn.Module:
        # Verified, since one that breaks the forward could not even be counted. The narrowest, of which every search asks
        # first, protects nearly all that cannot be cut.
        return pruner.verified(ratio)[0]

    if budget.kind == "params":
        return lambda: _counted(budget, pruner, count_parameters(reference), pruner.parameters_left)
    if budget.kind == "macs":
        macs = count_macs(reference, example_inputs)
        return lambda: _counted(budget, pruner, macs, lambda ratio: count_macs(cut(ratio), example_inputs))
    gauge = Gauge(reference, pruner, example_inputs, folder, table.threads)
    if budget.kind == "size":
        rest = gauge.size(0.0) - 4 * pruner.parameters_left(0.0)
        return lambda: _measured(
            budget,
            pruner,
            gauge.baseline_size,
            lambda ratio: 4 * pruner.parameters_left(ratio) + rest,
            lambda ratio: Cost(gauge.size(ratio)),
        )
    return lambda: _measured(
        budget,
        pruner,
        gauge.baseline_latency,
        lambda ratio: table.total(layer_shapes(cut(ratio), example_inputs)),
        lambda ratio: gauge.latency(ratio, budget),
        noisy=True,
    )


class Gauge:
    """Writes cut networks as ONNX files and measures them."""

    def __init__(
        self, reference: nn.Module, pruner: ChannelPruner, example_inputs: tuple[Tensor, ...], folder: Path, threads: int
    ) -> None:
        self._pruner, self._inputs, self._folder, self._threads = pruner, example_inputs, folder, threads
        self._signature = signature(reference, example_inputs)
        self._baseline = folder / "baseline.onnx"
        export_onnx(reference, example_inputs, self._baseline, self._signature)

    @property
    def baseline_size(self) -> float:
        return float(self._baseline.stat().st_size)

    @cached_property
    def baseline_latency(self) -> float:
        """Milliseconds, p50 of single samples."""
        return self._time([self._baseline])[0]

    def _write(self, ratio: float) -> Path:
        path = self._folder / "cut.onnx"
        export_onnx(self._pruner.verified(ratio)[0], self._inputs, path, self._signature)
        return path

    def size(self, ratio: float) -> float:
        """Bytes of the file."""
        return float(self._write(ratio).stat().st_size)

    def latency(self, ratio: float, budget: Budget) -> Cost:
        """Milliseconds, p50 of single samples, timed beside the baseline.

        Against a fraction it is the ratio of the two, so that a machine that is slower for a while changes nothing, times the
        baseline's first timing.
        """
        path = self._write(ratio)

        def draw() -> float:
            before, after = self._time([self._baseline, path])
            return after / before * self.baseline_latency if budget.fraction else after

        return steady(draw, budget.limit(self.baseline_latency))

    def _time(self, paths: list[Path]) -> list[float]:
        x = [x[:1].numpy() for x in self._inputs]
        sessions = {str(path): open_onnx(path, threads=self._threads) for path in paths}
        calls = {name: (lambda s=session: s.run(*x)) for name, session in sessions.items()}
        return [float(np.median(times)) for times in time_interleaved(calls, **TIMING).values()]  # type: ignore[arg-type]


def steady(draw: Callable[[], float], limit: float) -> Cost:
    """The mean of as many draws as it takes to tell on which side of the limit it is: `ROUNDS`, at least and at most.

    Source: Student 1908, "The Probable Error of a Mean" (the interval).
    """
    least, most = ROUNDS
    values = [draw() for _ in range(least)]
    while True:
        spread = T975[len(values) - 2] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        cost = Cost(float(np.mean(values)), spread)
        if len(values) == most or cost.within(limit) or cost.value - spread > limit:
            return cost
        values.append(draw())


def _counted(budget: Budget, pruner: ChannelPruner, baseline: float, cost: Callable[[float], float]) -> Answer:
    limit, cost = budget.limit(baseline), _once(pruner, cost)
    ratio = _smallest(cost, limit)
    if ratio is None:
        raise UserError(_unreachable(budget, pruner, Cost(cost(MOST)), limit))
    return Answer(ratio, baseline, limit, cost(ratio))


Network = tuple[tuple[str, int], ...]


def _network(pruner: ChannelPruner, ratio: float) -> Network:
    """What tells cut networks apart: many ratios round to one."""
    return tuple((group.id, len(units)) for group, units in pruner.cuts(ratio))


def _once(pruner: ChannelPruner, cost: Callable[[float], float]) -> Callable[[float], float]:
    """`cost`, computed once for each network."""
    known: dict[Network, float] = {}

    def found(ratio: float) -> float:
        network = _network(pruner, ratio)
        if network not in known:
            known[network] = cost(ratio)
        return known[network]

    return found


def _smallest(cost: Callable[[float], float], limit: float, low: float = 0.0, high: float = MOST) -> float | None:
    """The smallest ratio, to a thousandth, whose cost is within the limit; None if none is. Costs fall with the ratio."""
    if cost(high) > limit:
        return None
    if cost(low) <= limit:
        return low
    while high - low > 1e-3:
        middle = (low + high) / 2
        if cost(middle) <= limit:
            high = middle
        else:
            low = middle
    return high


def _measured(
    budget: Budget,
    pruner: ChannelPruner,
    baseline: float,
    predict: Callable[[float], float],
    measure: Callable[[float], Cost],
    *,
    noisy: bool = False,
) -> Answer:
    """Search in predictions, measure the answer, correct, until a measured answer is just within the limit.

    Args:
        noisy: of the networks that were measured, the one that is chosen is likely to have been lucky. It must be within the
            limit a second time, else the search goes on among the narrower ones.
    """
    limit = budget.limit(baseline)
    search = _Search(budget.kind, pruner, limit, _once(pruner, predict), measure)
    if not search.within(MOST):
        raise UserError(_unreachable(budget, pruner, search.seen[MOST], limit))
    if search.within(0.0):
        search.high = 0.0
    trials = TRIALS
    while True:
        ended = search.narrow(trials)
        cost = search.seen[search.high]
        if noisy:
            cost = measure(search.high)
            search.correct(cost)
        if not cost.within(limit):
            if not search.step_back():
                raise UserError(_unreachable(budget, pruner, cost, limit))
            trials = max(TRIALS, len(search.networks) + MORE)
        elif ended or cost.near(limit) or len(search.networks) >= trials:
            after = None if ended or cost.near(limit) else len(search.networks)
            return Answer(search.high, baseline, limit, cost.value, cost.spread, after)


class _Search:
    """Two ends that close in on the limit: `low` costs too much, `high` does not.

    A prediction that missed twice is given up for what was measured: the line between the two ends, and their middle, by turns.
    """

    def __init__(
        self,
        kind: str,
        pruner: ChannelPruner,
        limit: float,
        predict: Callable[[float], float],
        measure: Callable[[float], Cost],
    ) -> None:
        self.kind, self.pruner, self.limit, self.predict, self.measure = kind, pruner, limit, predict, measure
        self.low, self.high, self.last = 0.0, MOST, 0.0
        self.seen: dict[float, Cost] = {}
        self.networks: dict[Network, Cost] = {}

    def within(self, ratio: float) -> bool:
        """Whether the network of this ratio, which is measured once, meets the limit."""
        network = _network(self.pruner, ratio)
        if network not in self.networks:
            report(f"measure {self.kind}", len(self.networks), TRIALS)
            self.networks[network] = self.measure(ratio)
        self.seen[ratio] = self.networks[network]
        return self.seen[ratio].within(self.limit)

    def narrow(self, trials: int) -> bool:
        """Bring the ends together; whether they have met, so that no other network lies between them."""
        halve = False
        while self.high - self.low > 1e-3:
            if len(self.networks) >= trials or self.seen[self.high].near(self.limit):
                return False
            known = len(self.networks)
            guess = None if halve else self._predicted() if known < 4 else self._interpolated()
            if guess is None or not self.low < guess < self.high:
                guess = (self.low + self.high) / 2
            if self.within(guess):
                self.high = guess
            else:
                self.low = guess
            self.last = guess
            # Many ratios that round to one network cost nothing, and are passed fastest by halves.
            halve = len(self.networks) == known or (known >= 4 and not halve)
        return True

    def _wanted(self) -> float:
        """In the middle of what is accepted and near; the smallest spread is what a network near the limit will have."""
        spread = min(cost.spread for cost in self.seen.values())
        return min(self.limit * (1 - TOLERANCE / 2), self.limit * (1 + TOLERANCE / 2) - spread)

    def _predicted(self) -> float | None:
        scale = self.predict(self.last) / self.seen[self.last].value
        return _smallest(self.predict, self._wanted() * scale, self.low, self.high)

    def _interpolated(self) -> float | None:
        low, high = self.seen[self.low].value, self.seen[self.high].value
        return self.low + (self.high - self.low) * (low - self._wanted()) / (low - high) if low > high else None

    def correct(self, cost: Cost) -> None:
        """What `high` costs, measured again."""
        network = _network(self.pruner, self.high)
        self.networks[network] = cost
        self.seen = {ratio: cost if _network(self.pruner, ratio) == network else old for ratio, old in self.seen.items()}

    def step_back(self) -> bool:
        """Make the next narrower network that was within the limit the `high` one; whether there is one."""
        good = [ratio for ratio, old in self.seen.items() if ratio > self.high and old.within(self.limit)]
        if good:
            self.low = self.last = self.high
            self.high = min(good)
        return bool(good)


def _unreachable(budget: Budget, pruner: ChannelPruner, closest: Cost, limit: float) -> str:
    spread = f" +- {budget.show(closest.spread)}" if closest.spread else ""
    return (
        f"the target {budget.kind} = {budget.show(limit)} cannot be reached: with every group at its narrowest it is "
        f"{budget.show(closest.value)}{spread} "
        f"(round_to {pruner.settings.round_to}; {_protected(pruner)} of {len(pruner.groups)} groups are protected)"
    )
