"""The error of each layer in integers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from compress.plots.figure import ACCENT, SHADES, new_figure
from compress.quant.layer_errors import LayerError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layer_errors(layers: Sequence[LayerError]) -> "Figure":
    """Three marks for each layer, network from top to bottom: decibels of its output over the error that integers make.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = new_figure()
    figure.set_size_inches(8, 1.2 + 0.2 * len(layers))
    axes = figure.subplots()
    marks = (
        ("this layer alone", "own_db", "o"),
        ("its channels, median", "channel_db", "|"),
        ("whole network", "accumulated_db", "x"),
    )
    for (label, attribute, mark), colour in zip(marks, (SHADES[2], SHADES[1], ACCENT), strict=True):
        values = [getattr(layer, attribute) for layer in layers]
        at = [number for number, value in enumerate(values) if value is not None]
        axes.plot([values[number] for number in at], at, mark, color=colour, label=label)
    axes.set_yticks(np.arange(len(layers)), [layer.name for layer in layers])
    axes.invert_yaxis()
    axes.set_xlabel("signal over error, dB (less is worse)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
