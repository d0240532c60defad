"""Pictures of what was measured, drawn by matplotlib (extra `plot`)."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import UserError
from compress.files import write_atomically
from compress.pareto import front
from compress.quant.layer_errors import LayerError
from compress.sensitivity import Effect, Sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

FORMATS = ("png", "svg", "pdf")
# Shades of one blue, darker the further a group was cut, and orange for integers: told apart in grey and by the colour-blind.
SHADES, INTEGERS = ("#b7d0ea", "#5b94cf", "#1d4f8b", "#0b2443"), "#e07b1a"


def sensitivity(found: Sensitivity) -> "Figure":
    """Two rows of bars for each group: points of accuracy lost, and milliseconds saved, by each change alone.

    The panel of accuracy is left out where nothing was scored. A line marks the drop that a suggested ratio may cost.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = _figure()
    names = list(dict.fromkeys(effect.name for effect in found.effects))
    series = _series(found)
    panels = [("milliseconds saved", "saved_ms", 1.0)]
    if found.score is not None:
        panels.insert(0, ("points of accuracy lost", "drop", 100.0))
    figure.set_size_inches(4.5 * len(panels) + 2.5, 1.2 + 0.14 * len(names) * (len(series) + 1))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    height = 0.8 / len(series)
    for axes, (label, attribute, scale) in zip(all_axes, panels, strict=True):
        for number, (title, colour, effects) in enumerate(series):
            at = [names.index(effect.name) - 0.4 + height * (number + 0.5) for effect in effects]
            values = [scale * getattr(effect, attribute) for effect in effects]
            axes.barh(at, values, height, color=colour, label=title)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
        axes.margins(y=0.01)
        if attribute == "drop":
            axes.axvline(scale * found.within, color="black", linewidth=0.8, linestyle="--")
    all_axes[0].set_yticks(np.arange(len(names)), names)
    all_axes[0].invert_yaxis()
    all_axes[-1].legend(fontsize="small")
    scored = "" if found.score is None else f"{100 * found.score:.2f} % on {found.selected_on} data, "
    figure.suptitle(f"one group at a time; the original: {scored}{found.latency_ms:.3f} ms", fontsize="medium")
    return figure


def layer_errors(layers: Sequence[LayerError]) -> "Figure":
    """Three marks for each layer, network from top to bottom: decibels of its output over the error that integers make.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = _figure()
    figure.set_size_inches(8, 1.2 + 0.2 * len(layers))
    axes = figure.subplots()
    marks = (
        ("this layer alone", "own_db", "o"),
        ("its channels, median", "channel_db", "|"),
        ("whole network", "accumulated_db", "x"),
    )
    for (label, attribute, mark), colour in zip(marks, (SHADES[2], SHADES[1], INTEGERS), strict=True):
        values = [getattr(layer, attribute) for layer in layers]
        at = [number for number, value in enumerate(values) if value is not None]
        axes.plot([values[number] for number in at], at, mark, color=colour, label=label)
    axes.set_yticks(np.arange(len(layers)), [layer.name for layer in layers])
    axes.invert_yaxis()
    axes.set_xlabel("signal over error, dB (less is worse)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def pareto(rows: "Sequence[Mapping[str, Any]] | DataFrame") -> "Figure":
    """Accuracy against latency, a mark for each row of `compress.compare`, and the front of those that nothing beats in both.

    What was scored on other data or timed on another machine has a panel of its own. Where a row stands for several runs, bars
    reach one standard deviation to each side.

    Raises:
        UserError: no run was scored, or matplotlib is not installed.
    """
    figure = _figure()
    plain = rows if isinstance(rows, Sequence) else rows.to_dict("records")
    panels: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in plain:
        if _known(row["accuracy_percent"]):
            data = row["data"] if isinstance(row["data"], str) else row["setting"]  # data without a name may be any
            panels.setdefault((data, row["eval_samples"], row["machine"]), []).append(row)
    if not panels:
        raise UserError("no run was scored, so there is no accuracy to draw; give --data, or a Task with evaluate")
    figure.set_size_inches(6.5 * len(panels), 4.5)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    labels = []
    for axes, members in zip(all_axes, panels.values(), strict=True):
        labels.append(_pareto_panel(axes, members))
        settings = sorted({row["setting"] for row in members})
        if len(panels) > 1:
            axes.set_title(f"setting{'s' if len(settings) > 1 else ''} {', '.join(map(str, settings))}", fontsize="medium")
    figure.draw_without_rendering()
    for axes, beside in zip(all_axes, labels, strict=True):
        _write_beside(axes, beside)
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write the picture in the format that the file's name ends in: png, svg or pdf.

    Raises:
        UserError: another ending, or the file cannot be written.
    """
    check_format(path)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    write_atomically(path, content.getvalue())


def check_format(path: Path) -> None:
    """Whether a picture can be written under this name; asked before what it shows is measured.

    Raises:
        UserError: it cannot, or matplotlib is not installed.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise UserError(f"a picture's name ends in .png, .svg or .pdf, got {path}")
    _figure()


def _figure() -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("a plot needs matplotlib; install it with: pip install 'compress-toolkit[plot]'") from None
    # Not pyplot: a figure of its own needs no display and stays out of the figures of a notebook.
    return Figure(layout="constrained")


def _pareto_panel(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Marks and front; gives what is to be written beside the marks, and where."""
    several = len({row["setting"] for row in rows}) > 1
    staged = len({(row["setting"], row["run"]) for row in rows}) < len(rows)
    labels = []
    for row in rows:
        original = row["run"] == row["stage"]
        x, y = row["latency_ms_p50"], row["accuracy_percent"]
        spread = [_spread(row, name) for name in ("latency_ms_p50", "accuracy_percent")]
        colour, mark = ("black", "s") if original else (SHADES[2], "o")
        axes.errorbar(x, y, xerr=spread[0], yerr=spread[1], fmt=mark, color=colour, elinewidth=0.8)
        name = f"{row['run']}, {row['stage']}" if staged and not original else row["run"]
        labels.append((f"{name} ({row['model']})" if several else name, x, y))
    best = front([(row["latency_ms_p50"], row["accuracy_percent"]) for row in rows])
    right = 1.2 * max(row["latency_ms_p50"] + _spread(row, "latency_ms_p50") for row in rows)
    best.append((right, best[-1][1]))  # whoever can wait still has the most accurate
    axes.plot(*zip(*best, strict=True), color=SHADES[1], linewidth=1, drawstyle="steps-post", zorder=0, label="Pareto front")
    axes.set_xlabel("latency, ms (p50)")
    axes.set_ylabel("accuracy, %")
    axes.set_xlim(0, right)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return labels


def _write_beside(axes: "Axes", labels: Sequence[tuple[str, float, float]]) -> None:
    """Each label at its point, or farther off with a line to it, where others are already. The figure must have its layout."""
    legend = axes.get_legend()
    taken = [] if legend is None else [legend.get_window_extent()]
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": "grey", "shrinkA": 0, "shrinkB": 0}
    for label, x, y in labels:
        text = axes.annotate(label, (x, y), (8, 4), textcoords="offset points", fontsize="small", parse_math=False)
        text.set_in_layout(False)  # which is settled
        for up in (4, -12, 16, -24, 28, -36, 40):
            text.xyann = (8, up)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        if abs(up) > 12:
            axes.annotate("", (x, y), (7, up + 3), textcoords="offset points", arrowprops=line).set_in_layout(False)


def _spread(row: Mapping[str, Any], figure: str) -> float:
    return row[f"{figure}_std"] if _known(row[f"{figure}_std"]) else 0.0


def _known(value: float | None) -> bool:
    """Neither None nor the NaN that a DataFrame makes of it."""
    return value is not None and value == value


def _series(found: Sensitivity) -> list[tuple[str, str, list[Effect]]]:
    """(label, colour, effects) for each kind of change: the first cut of each group, the second, …, and integers."""
    cuts: dict[str, list[Effect]] = {}
    for effect in found.effects:
        if effect.ratio is not None:
            cuts.setdefault(effect.name, []).append(effect)
    series = []
    for number in range(max(map(len, cuts.values()), default=0)):
        effects = [each[number] for each in cuts.values() if number < len(each)]
        least, most = min(e.ratio or 0 for e in effects), max(e.ratio or 0 for e in effects)
        share = f"{100 * least:.0f}" if round(least, 2) == round(most, 2) else f"{100 * least:.0f} to {100 * most:.0f}"
        series.append((f"{share} % of channels cut", SHADES[min(number, len(SHADES) - 1)], effects))
    integers = [effect for effect in found.effects if effect.ratio is None]
    return [*series, ("int8", INTEGERS, integers)] if integers else series
