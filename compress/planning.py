"""What structural pruning would do, told before a weight is touched."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from compress.artifact import Artifact
from compress.errors import CompressError
from compress.export import export_onnx
from compress.measure import count_macs, count_parameters
from compress.measure.cost import macs_by_layer
from compress.passes.prune_channels import PruneChannels
from compress.pipeline import check, seed_everything
from compress.pruning.channels import Cut, changed_widths, widths
from compress.pruning.groups import Group, plan_names
from compress.tables import html_block
from compress.task import Task


@dataclass(frozen=True)
class GroupPlan:
    """One row: a group, and what happens to it.

    Attributes:
        name: the layer that makes the channels; `layer#2` is the second group of that layer.
        units, kept: channels, or heads where `width` is more than 1.
        width: channels in a unit.
        layers: those whose outputs are cut.
        macs: multiply-adds of the layers that make or read these channels, before, at batch 1.
        reason: why nothing goes; None where something may.
    """

    name: str
    units: int
    kept: int
    width: int
    layers: tuple[str, ...]
    macs: int
    reason: str | None


@dataclass(frozen=True)
class PruningPlan:
    """A dry run of `prune_channels`.

    Attributes:
        widths: layer -> output channels before and after, where they change.
        params, macs, size_bytes: before and after; the size is that of the exported file, None where the model
            cannot be exported.
        protected_macs: share of the MACs in layers of which nothing may be cut, neither inputs nor outputs.
        ratios: of each group that is cut, as `PruneChannels(ratio=0, ratios=...)` and `--prune-plan` take them to do the same.
        notes: what the run itself would note.
    """

    groups: tuple[GroupPlan, ...]
    widths: dict[str, tuple[int, int]]
    params: tuple[int, int]
    macs: tuple[int, int]
    size_bytes: tuple[int | None, int | None]
    protected_macs: float
    ratios: dict[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it."""
        return asdict(self)

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header, and a row of texts for each group; the first and the last column hold words."""
        return ("group", "channels", "kept", "layers", "MMACs", ""), [_cells(group) for group in self.groups]

    def lines(self) -> list[str]:
        """What it comes to, a line each; what is noted of single groups is in the table."""
        lines = []
        for name, (before, after) in (("params", self.params), ("MACs", self.macs), ("bytes", self.size_bytes)):
            if before is None or after is None:
                lines.append(f"{name}: unknown, the model cannot be exported to ONNX")
                continue
            share = f"{after / before:.3f}" if before else "-"
            lines.append(f"{name}: {before:,} -> {after:,} ({share})")
        lines.append(f"protected: {100 * self.protected_macs:.1f} % of the MACs are in layers of which nothing can be cut")
        return lines + [f"note: {note}" for note in self.notes if not note.startswith("protected")]

    def _repr_html_(self) -> str:
        header, rows = self.cells()
        return html_block(header, rows, self.lines(), left=(0, len(header) - 1))


def plan(model: nn.Module, task: Task, pruning: PruneChannels | None = None, *, seed: int = 0) -> PruningPlan:
    """What `pruning` would do to `model`, which is not changed: the same search and the same cut as in a run.

    >>> from compress.testing import tiny_model, tiny_task
    >>> found = plan(tiny_model(), tiny_task(), PruneChannels(ratio=0.5))
    >>> found.widths, found.params
    ({'stem': (16, 8), 'body': (16, 8)}, (2868, 860))

    Args:
        pruning: default `PruneChannels()`.
        seed: as the run's, of whose first pass this is a plan.

    Raises:
        UserError: the task lacks what the criterion needs, or the target cannot be reached.
        PassError: the model's forward cannot be followed, or nothing can be removed and `allow_noop` is off; as the run does.
    """
    pruning = pruning or PruneChannels()
    check([pruning], task)
    seed_everything(seed + 1)  # the first pass of a run has this seed
    artifact = Artifact.start(model, task)
    model, inputs = artifact.model, artifact.task.example_inputs
    pruner = pruning.pruner(artifact)
    decision = pruning.decide(pruner, artifact)
    cut = decision.model
    layers = macs_by_layer(model, inputs)
    return PruningPlan(
        groups=tuple(_rows(pruner.groups, decision.cuts, layers)),
        widths=changed_widths(widths(model), widths(cut)),
        params=(count_parameters(model), count_parameters(cut)),
        macs=(count_macs(model, inputs), count_macs(cut, inputs)),
        size_bytes=(_size(model, artifact), _size(cut, artifact)),
        protected_macs=protected_macs(pruner.groups, layers),
        ratios=_ratios(pruner.groups, decision.cuts),
        notes=decision.notes,
    )


def _size(network: nn.Module, artifact: Artifact) -> int | None:
    """Bytes of the ONNX file; None where there is none, which pruning itself does not need."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export_onnx(network, artifact.task.example_inputs, path, artifact.signature)
        except CompressError:
            return None
        return path.stat().st_size


def _ratios(groups: list[Group], cuts: list[Cut]) -> dict[str, float]:
    names = plan_names(groups)
    return {names[group.id]: len(units) / group.units for group, units in cuts}


def _rows(groups: list[Group], cuts: list[Cut], layers: dict[str, int]) -> list[GroupPlan]:
    gone = {group.id: len(units) for group, units in cuts}
    rows = []
    for group in groups:
        touched = {member.layer for member in group.members}
        kept = group.units - gone.get(group.id, 0)
        macs = sum(layers.get(layer, 0) for layer in touched)
        rows.append(GroupPlan(group.id, group.units, kept, group.width, tuple(group.layers), macs, group.fixed))
    return rows


def _cells(group: GroupPlan) -> tuple[str, ...]:
    size = f"{group.units}" if group.width == 1 else f"{group.units} x {group.width}"
    reason = "" if group.reason is None else f"protected: {group.reason}"
    return (group.name, size, str(group.kept), str(len(group.layers)), f"{group.macs / 1e6:.2f}", reason)


def protected_macs(groups: list[Group], layers: dict[str, int]) -> float:
    """Share of the MACs in layers that no group which may be cut has a part in."""
    free = {member.layer for group in groups if group.fixed is None and group.units > 1 for member in group.members}
    total = sum(layers.values())
    return sum(macs for layer, macs in layers.items() if layer not in free) / total if total else 0.0


def parse_plan(text: str) -> dict[str, float]:
    """The ratios of a plan file: YAML, layer names or shell patterns to ratios in [0, 1].

    Raises:
        ValueError: anything else; the message says what is wrong, without the file's name.
    """
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"{f'line {mark.line + 1}: ' if mark else ''}not valid YAML") from None
    if not isinstance(values, dict) or not values:
        raise ValueError("a plan maps layer names or shell patterns to ratios, such as 'layer1.*: 0.3'")
    for name, ratio in values.items():
        if not isinstance(name, str) or isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise ValueError(f"the ratio of '{name}' must be a number in [0, 1], got {ratio!r}")
    return {name: float(ratio) for name, ratio in values.items()}
