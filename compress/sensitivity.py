"""How much each group of channels, or each layer's integers, costs in accuracy and brings in latency, one at a time."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.artifact import Artifact
from compress.errors import CompressError, UserError
from compress.gauge import Gauge
from compress.passes.int8 import Int8
from compress.passes.prune_channels import PruneChannels
from compress.pipeline import check, seed_everything, transformed
from compress.progress import report
from compress.pruning.channels import ChannelPruner
from compress.pruning.cut import cut_copy
from compress.pruning.groups import Group, plan_names
from compress.pruning.oracle import complaint
from compress.quant.ptq import prepare
from compress.tables import html_block
from compress.task import Predict, Task
from compress.training import reestimate_batch_norm

RATIOS = (0.25, 0.5, 0.75)
BATCHES_FOR_STATISTICS = 16
BAR = 20  # characters of the bar of the largest drop


@dataclass(frozen=True)
class Effect:
    """One change, alone.

    Attributes:
        name: the group's, or the layer's; `layer#2` is the second group of that layer.
        change: `prune 0.5` or `int8`.
        ratio: share of channels that went; None for int8.
        score: on the data that choose, after batch norm re-estimation where there are calibration data; None without data.
        drop: the original's score less this one.
        latency_ms: p50 of the exported file at batch 1; `saved_ms` what the original takes more, timed side by side.
        params: of the network.
    """

    name: str
    change: str
    ratio: float | None
    score: float | None
    drop: float | None
    latency_ms: float
    saved_ms: float
    params: int


@dataclass(frozen=True)
class Sensitivity:
    """What was found, and what it suggests.

    Attributes:
        selected_on: `validate`, `evaluate` where there are no validation data, or None.
        score, latency_ms, params: of the original.
        suggested: group -> the largest tried ratio whose drop is within `within`; what `--prune-plan` takes. A group whose layer
            has others is called by its address, such as `layer#1`.
        protected: group -> reason; those too whose cut network does not compute what the original does without the channels.
        failed: change, such as `layer int8` -> why it could not be made or exported.
    """

    selected_on: str | None
    score: float | None
    latency_ms: float
    params: int
    effects: tuple[Effect, ...]
    suggested: dict[str, float]
    protected: dict[str, str]
    within: float
    failed: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it."""
        return asdict(self)

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header, and a row of texts for each change, with a bar for the drop; the first and the last column hold words."""
        most = max([abs(effect.drop) for effect in self.effects if effect.drop is not None], default=0) or 1
        header = ("group", "change", "accuracy %", "drop", "ms p50", "saved ms", "params M", "")
        return header, [_cells(effect, most) for effect in self.effects]

    def lines(self) -> list[str]:
        """The original, what could not be changed, and what is suggested, a line each."""
        score = "not scored" if self.score is None else f"{100 * self.score:.2f} % on {self.selected_on} data"
        lines = [f"original: {score}, {self.latency_ms:.3f} ms, {self.params / 1e6:.3f} M parameters"]
        if self.protected:
            lines.append("protected: " + "; ".join(f"{name} ({why})" for name, why in self.protected.items()))
        lines += [f"note: {change} failed: {why}" for change, why in self.failed.items()]
        chosen = {name: round(ratio, 3) for name, ratio in self.suggested.items() if ratio}
        return [*lines, f"suggested (at most {100 * self.within:g} points each): {chosen or 'none'}"]

    def _repr_html_(self) -> str:
        header, rows = self.cells()
        return html_block(header, rows, self.lines(), left=(0, len(header) - 1))


def sensitivity(
    model: nn.Module,
    task: Task,
    pruning: PruneChannels | None = None,
    *,
    ratios: Sequence[float] = RATIOS,
    int8: bool = False,
    within: float = 0.01,
    threads: int = 1,
    seed: int = 0,
    timing: dict[str, float] | None = None,
    on_effect: Callable[[Effect], None] = lambda effect: None,
) -> Sensitivity:
    """Prune one group at a time, by each ratio; with `int8` also quantize one layer at a time.

    Args:
        model: is not changed.
        pruning: criterion (or importance), seed, round_to and exclude are taken from it.
        ratios: of the channels of the one group.
        within: largest drop of the score, a fraction, that a suggested ratio may cost.
        threads: of the timed runtime.
        timing: limits of the timing loop.
        on_effect: called with each effect as soon as it is measured.

    Raises:
        UserError: the task lacks what is needed, no group may be cut, or no change could be measured.
    """
    pruning = replace(pruning or PruneChannels(), target=None, ranking="local", ratio=0.5, ratios={})
    check([pruning, *([Int8()] if int8 else [])], task)
    seed_everything(seed)
    judge, selected_on = _judge(task)
    artifact = Artifact.start(model, task)
    model = artifact.model
    with tempfile.TemporaryDirectory() as scratch:
        pruner = pruning.pruner(artifact)
        work = [*_pruned(pruner, ratios), *(_quantized(model, artifact.task.example_inputs) if int8 else [])]
        limits: dict[str, Any] = {} if timing is None else {"timing": timing}
        gauge = Gauge(Path(scratch), artifact.task.example_inputs, artifact.signature, judge, threads, **limits)
        beside = _Beside(gauge, artifact.model)
        protected = {group.id: group.fixed for group in pruner.groups if group.fixed is not None}
        effects, failed = _measured(work, beside, artifact, protected, on_effect)
        names = plan_names(pruner.groups)
        return Sensitivity(
            selected_on=selected_on,
            score=beside.score,
            latency_ms=beside.latency_ms,
            params=beside.params,
            effects=tuple(effects),
            suggested={names[group]: ratio for group, ratio in _suggest(effects, within).items()},
            protected=protected,
            within=within,
            failed=failed,
        )


def _measured(
    work: Sequence["Work"],
    beside: "_Beside",
    artifact: Artifact,
    protected: dict[str, str],
    on_effect: Callable[[Effect], None],
) -> tuple[list[Effect], dict[str, str]]:
    """The effects, and the changes that failed. A group that cannot be cut joins `protected`; its larger cuts are not tried."""
    effects: list[Effect] = []
    failed: dict[str, str] = {}
    for position, (name, change, ratio, build) in enumerate(work):
        report("sensitivity", position, len(work), name)
        if ratio is not None and name in protected:
            continue
        try:
            effects.append(beside.effect(name, change, ratio, build(artifact)))
            on_effect(effects[-1])
        except _Refused as refused:
            protected[name] = str(refused)
        except CompressError as error:  # an export, say: the other changes are still worth knowing
            failed[f"{name} {change}"] = str(error).splitlines()[0]
    report("sensitivity", len(work), len(work))
    if not effects:
        reasons = [f"{name} ({reason})" for name, reason in {**protected, **failed}.items()]
        raise UserError(f"no change could be measured: {', '.join(reasons)}")
    return effects, failed


def _judge(task: Task) -> tuple[Callable[[Predict], float] | None, str | None]:
    if task.validate is not None:
        return task.validate, "validate"
    return (task.evaluate, "evaluate") if task.evaluate is not None else (None, None)


Work = tuple[str, str, float | None, Callable[[Artifact], nn.Module]]


class _Refused(Exception):
    """The group cannot be cut; says why."""


def _pruned(pruner: ChannelPruner, ratios: Sequence[float]) -> list[Work]:
    cuts = [{group.id: (group, units) for group, units in pruner.cuts(ratio)} for ratio in sorted(ratios)]
    work: list[Work] = []
    for group in pruner.groups:
        # Several ratios may round to one cut.
        for units in dict.fromkeys(found[group.id][1] for found in cuts if group.id in found):
            gone = len(units) / group.units
            work.append((group.id, f"prune {gone:.2f}", gone, _cutter(pruner, group, units)))
    if not work:
        raise UserError(f"no group can be cut at ratios {', '.join(map(str, ratios))} and round_to {pruner.settings.round_to}")
    return work


def _cutter(pruner: ChannelPruner, group: Group, units: tuple[int, ...]) -> Callable[[Artifact], nn.Module]:
    def build(artifact: Artifact) -> nn.Module:
        cut = cut_copy(pruner.model, [(group, units)])
        problem = complaint(pruner.model, cut, [(group, units)], pruner.inputs)
        if problem is not None:
            raise _Refused(problem)
        calibration = artifact.task.calibration
        if calibration is not None:
            reestimate_batch_norm(cut, islice(calibration(), BATCHES_FOR_STATISTICS))
        return cut

    return build


def _quantized(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Work]:
    names = prepare(copy.deepcopy(model), inputs)[1].layers

    def builder(name: str) -> Callable[[Artifact], nn.Module]:
        def build(artifact: Artifact) -> nn.Module:
            others = tuple(other for other in names if other != name)
            alone = Int8(exclude=others, keep_slow=True)
            return transformed(alone, replace(artifact, notes=[]), 0, next(model.parameters()).device).model

        return build

    return [(name, "int8", None, builder(name)) for name in names]


class _Beside:
    """The original's file, and what other networks cost and bring beside it."""

    def __init__(self, gauge: Gauge, original: nn.Module) -> None:
        self._gauge, self._original = gauge, gauge.write(original, "baseline")
        self.score = gauge.score(self._original)
        self.latency_ms = gauge.latencies_ms(self._original, self._original)[0]
        self.params = sum(p.numel() for p in original.parameters())

    def effect(self, name: str, change: str, ratio: float | None, model: nn.Module) -> Effect:
        path = self._gauge.write(model, "changed")
        score = self._gauge.score(path)
        before, after = self._gauge.latencies_ms(self._original, path)
        drop = None if score is None or self.score is None else round(self.score - score, 6)
        params = sum(p.numel() for p in model.parameters())
        return Effect(name, change, ratio, score, drop, round(after, 4), round(before - after, 4), params)


def _cells(effect: Effect, most: float) -> tuple[str, ...]:
    score = "-" if effect.score is None else f"{100 * effect.score:.2f}"
    drop = "-" if effect.drop is None else f"{100 * effect.drop:.2f}"
    bar = "#" * round(BAR * max(effect.drop or 0, 0) / most)
    numbers = (f"{effect.latency_ms:.3f}", f"{effect.saved_ms:.3f}", f"{effect.params / 1e6:.3f}")
    return (effect.name, effect.change, score, drop, *numbers, bar)


def _suggest(effects: Sequence[Effect], within: float) -> dict[str, float]:
    """For each group the largest ratio within the bound; 0 where none is, or where nothing was scored."""
    found: dict[str, float] = {}
    for effect in effects:
        if effect.ratio is not None:
            good = effect.drop is not None and effect.drop <= within
            found[effect.name] = max(found.get(effect.name, 0.0), effect.ratio if good else 0.0)
    return found
