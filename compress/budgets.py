"""A budget for a pruned network in its user's own unit, and the ratio that meets it."""

import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
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
class Answer:
    """The ratio found, and the costs at it, in the budget's unit."""

    ratio: float
    baseline: float
    limit: float
    cost: float


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

    Args:
        reference: the network that fractions refer to.
        threads: of the runtime that is timed.
        table: layer times to search in; a wrong one costs time and changes nothing in the answer.

    Raises:
        UserError: no ratio is enough; says how close one can get.
    """
    if budget.kind == "params":
        return _counted(budget, pruner, count_parameters(reference), pruner.parameters_left)
    if budget.kind == "macs":
        baseline = count_macs(reference, example_inputs)
        return _counted(budget, pruner, baseline, lambda ratio: count_macs(pruner.cut(ratio), example_inputs))
    with tempfile.TemporaryDirectory() as scratch:
        gauge = Gauge(reference, pruner, example_inputs, Path(scratch), threads)
        if budget.kind == "size":
            weights = pruner.parameters_left(0.0)
            rest = gauge.size(0.0) - 4 * weights
            return _measured(
                budget, pruner, gauge.baseline_size, lambda ratio: 4 * pruner.parameters_left(ratio) + rest, gauge.size
            )
        layers = table or LayerTable(threads)
        return _measured(
            budget,
            pruner,
            gauge.baseline_latency,
            lambda ratio: layers.total(layer_shapes(pruner.cut(ratio), example_inputs)),
            gauge.latency,
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

    @property
    def baseline_latency(self) -> float:
        return self._time([self._baseline])[0]

    def _write(self, ratio: float) -> Path:
        path = self._folder / "cut.onnx"
        export_onnx(self._pruner.cut(ratio), self._inputs, path, self._signature)
        return path

    def size(self, ratio: float) -> float:
        """Bytes of the file."""
        return float(self._write(ratio).stat().st_size)

    def latency(self, ratio: float) -> float:
        """Milliseconds, p50 of single samples."""
        return self._time([self._write(ratio)])[0]

    def _time(self, paths: list[Path]) -> list[float]:
        x = [x[:1].numpy() for x in self._inputs]
        sessions = {str(path): open_onnx(path, threads=self._threads) for path in paths}
        calls = {name: (lambda s=session: s.run(*x)) for name, session in sessions.items()}
        return [float(np.median(times)) for times in time_interleaved(calls, min_seconds=1.0).values()]


def _counted(budget: Budget, pruner: ChannelPruner, baseline: float, cost: Callable[[float], float]) -> Answer:
    limit = budget.limit(baseline)
    ratio = _smallest(cost, limit)
    if ratio is None:
        raise UserError(_unreachable(budget, pruner, cost(MOST), limit))
    return Answer(ratio, baseline, limit, cost(ratio))


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
    measure: Callable[[float], float],
) -> Answer:
    """Search in predictions, measure the answer, correct, until a measured answer is just within the limit.

    What was measured bounds the search from both sides. A prediction that missed twice is given up for what was measured:
    the line between the two ends, and their middle, by turns.
    """
    limit = budget.limit(baseline)
    seen: dict[float, float] = {}
    networks: dict[tuple[tuple[str, int], ...], float] = {}

    def measured(ratio: float) -> float:
        # Many ratios round to one network, which is measured once.
        key = tuple((group.name, len(units)) for group, units in pruner.cuts(ratio))
        if key not in networks:
            report(f"measure {budget.kind}", len(networks), TRIALS)
            networks[key] = measure(ratio)
        seen[ratio] = networks[key]
        return networks[key]

    if measured(MOST) > limit:
        raise UserError(_unreachable(budget, pruner, seen[MOST], limit))
    if measured(0.0) <= limit:
        return Answer(0.0, baseline, limit, seen[0.0])
    low, high, last, wanted = 0.0, MOST, 0.0, limit * (1 - TOLERANCE / 2)
    halve = False
    while len(networks) < TRIALS and high - low > 1e-3 and seen[high] < limit * (1 - TOLERANCE):
        known = len(networks)
        guess = None
        if not halve and known < 4:
            guess = _smallest(predict, wanted * predict(last) / seen[last], low, high)
        elif not halve:
            guess = low + (high - low) * (seen[low] - wanted) / (seen[low] - seen[high])
        if guess is None or not low < guess < high:
            guess = (low + high) / 2
        low, high = (low, guess) if measured(guess) <= limit else (guess, high)
        last = guess
        # Many ratios that round to one network cost nothing, and are passed fastest by halves.
        halve = len(networks) == known or (known >= 4 and not halve)
    return Answer(high, baseline, limit, seen[high])


def _unreachable(budget: Budget, pruner: ChannelPruner, closest: float, limit: float) -> str:
    fixed = sum(group.fixed is not None for group in pruner.groups)
    return (
        f"the target {budget.kind} = {budget.show(limit)} cannot be reached: with every group at its narrowest it is "
        f"{budget.show(closest)} (round_to {pruner.settings.round_to}; {fixed} of {len(pruner.groups)} groups are protected)"
    )
