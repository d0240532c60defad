"""How wide each layer is, before and after."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import UserError
from compress.plots.figure import ACCENT, SHADES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layers(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Two bars over each other for each layer, network from top to bottom: its output channels before, and after.

    Where weights are zero, their share of the second bar has a colour of its own.

    Args:
        rows: `layers` of a report; a layer that is in one of the two networks alone has one bar.

    Raises:
        UserError: there is no layer, or matplotlib is not installed.
    """
    figure = new_figure()
    if not rows:
        raise UserError("the report has no layers to draw: the network has no convolution and no linear layer")
    figure.set_size_inches(8, 1.2 + 0.2 * len(rows))
    axes = figure.subplots()
    at = np.arange(len(rows))
    before, after = ([row[name] or 0 for row in rows] for name in ("width_before", "width_after"))
    zeros = [(row["sparsity"] or 0) * width for row, width in zip(rows, after, strict=True)]
    axes.barh(at, before, 0.8, color=SHADES[0], label="before")
    axes.barh(at, after, 0.5, color=SHADES[2], label="after")
    if any(zeros):
        axes.barh(at, zeros, 0.5, color=ACCENT, label="share of weights that are zero")
    axes.set_yticks(at, [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("output channels")
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.01)
    axes.legend(fontsize="small")
    return figure
