"""What cutting one group, or one layer's integers, costs and brings, one at a time."""

from typing import TYPE_CHECKING

import numpy as np

from compress.plots.figure import ACCENT, SHADES, new_figure
from compress.sensitivity import Effect, Sensitivity

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sensitivity(found: Sensitivity) -> "Figure":
    """Two rows of bars for each group: points of accuracy lost, and milliseconds saved, by each change alone.

    The panel of accuracy is left out where nothing was scored. A line marks the drop that a suggested ratio may cost.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = new_figure()
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
    return [*series, ("int8", ACCENT, integers)] if integers else series
