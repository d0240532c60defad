"""Accuracy against latency, with the front of those that nothing beats in both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.errors import UserError
from compress.pareto import front
from compress.plots.figure import SHADES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class Mark:
    """A point, with what is written beside it; spreads are one standard deviation, 0 where there is none."""

    label: str
    latency_ms: float
    accuracy_percent: float
    latency_spread: float = 0.0
    accuracy_spread: float = 0.0
    original: bool = False


def pareto(rows: "Sequence[Mapping[str, Any]] | DataFrame") -> "Figure":
    """Accuracy against latency, a mark for each row of `compress.compare`, and the front of those that nothing beats in both.

    What was scored on other data or timed on another machine has a panel of its own. Where a row stands for several runs, bars
    reach one standard deviation to each side.

    Raises:
        UserError: no run was scored, or matplotlib is not installed.
    """
    plain = rows if isinstance(rows, Sequence) else rows.to_dict("records")
    panels: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in plain:
        if _known(row["accuracy_percent"]):
            data = row["data"] if isinstance(row["data"], str) else row["setting"]  # data without a name may be any
            panels.setdefault((data, row["eval_samples"], row["machine"]), []).append(row)
    titles = []
    for members in panels.values():
        settings = sorted({row["setting"] for row in members})
        titles.append(f"setting{'s' if len(settings) > 1 else ''} {', '.join(map(str, settings))}")
    return drawn([_marks(members) for members in panels.values()], titles)


def drawn(panels: Sequence[Sequence[Mark]], titles: Sequence[str]) -> "Figure":
    """The picture of these marks; one panel alone has no title.

    Raises:
        UserError: there is no panel, or matplotlib is not installed.
    """
    figure = new_figure()
    if not panels:
        raise UserError("no run was scored, so there is no accuracy to draw; give --data, or a Task with evaluate")
    figure.set_size_inches(6.5 * len(panels), 4.5)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, marks, title in zip(all_axes, panels, titles, strict=True):
        _panel(axes, marks)
        if len(panels) > 1:
            axes.set_title(title, fontsize="medium")
    figure.draw_without_rendering()
    for axes, marks in zip(all_axes, panels, strict=True):
        _write_beside(axes, marks)
    return figure


def _marks(rows: Sequence[Mapping[str, Any]]) -> list[Mark]:
    several = len({row["setting"] for row in rows}) > 1
    staged = len({(row["setting"], row["run"]) for row in rows}) < len(rows)
    marks = []
    for row in rows:
        original = row["stage"] == "baseline"  # a run may be called as its last stage
        name = f"{row['run']}, {row['stage']}" if staged and not original else row["run"]
        label = f"{name} ({row['model']})" if several else name
        at = (row["latency_ms_p50"], row["accuracy_percent"])
        spreads = (_spread(row, "latency_ms_p50"), _spread(row, "accuracy_percent"))
        marks.append(Mark(label, *at, *spreads, original=original))
    return marks


def _panel(axes: "Axes", marks: Sequence[Mark]) -> None:
    for mark in marks:
        colour, shape = ("black", "s") if mark.original else (SHADES[2], "o")
        bars = (mark.accuracy_spread, mark.latency_spread)
        axes.errorbar(mark.latency_ms, mark.accuracy_percent, *bars, fmt=shape, color=colour, elinewidth=0.8)
    best = front([(mark.latency_ms, mark.accuracy_percent) for mark in marks])
    right = 1.2 * max(mark.latency_ms + mark.latency_spread for mark in marks)
    best.append((right, best[-1][1]))  # whoever can wait still has the most accurate
    axes.plot(*zip(*best, strict=True), color=SHADES[1], linewidth=1, drawstyle="steps-post", zorder=0, label="Pareto front")
    axes.set_xlabel("latency, ms (p50)")
    axes.set_ylabel("accuracy, %")
    axes.set_xlim(0, right)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _write_beside(axes: "Axes", marks: Sequence[Mark]) -> None:
    """Each label at its point, or farther off with a line to it, where others are already. The figure must have its layout."""
    legend = axes.get_legend()
    taken = [] if legend is None else [legend.get_window_extent()]
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": "grey", "shrinkA": 0, "shrinkB": 0}
    for mark in marks:
        at = (mark.latency_ms, mark.accuracy_percent)
        text = axes.annotate(mark.label, at, (8, 4), textcoords="offset points", fontsize="small", parse_math=False)
        text.set_in_layout(False)  # which is settled
        for up in (4, -12, 16, -24, 28, -36, 40):
            text.xyann = (8, up)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        if abs(up) > 12:
            axes.annotate("", at, (7, up + 3), textcoords="offset points", arrowprops=line).set_in_layout(False)


def _spread(row: Mapping[str, Any], figure: str) -> float:
    return row[f"{figure}_std"] if _known(row[f"{figure}_std"]) else 0.0


def _known(value: float | None) -> bool:
    """Neither None nor the NaN that a DataFrame makes of it."""
    return value is not None and value == value
