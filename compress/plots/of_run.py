"""The pictures of one run."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compress.plots.trade_off import Mark, drawn
from compress.plots.widths import layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RunPlots:
    """What `run.plot` gives: `run.plot.pareto()`, `run.plot.layers()`.

    Attributes:
        report: of the run.
    """

    report: dict[str, Any] = field(repr=False)  # pages of text

    def pareto(self) -> "Figure":
        """Accuracy against latency, a mark for each stage that was scored, and the front of those that nothing beats in both.

        Raises:
            UserError: no stage was scored, or matplotlib is not installed.
        """
        first = self.report["stages"][0]
        marks = [
            Mark(stage["name"], stage["latency_ms"]["p50"], 100 * stage["accuracy"], original=stage is first)
            for stage in self.report["stages"]
            if stage["accuracy"] is not None
        ]
        return drawn([marks] if marks else [], [""] if marks else [])

    def layers(self) -> "Figure":
        """Output channels of each layer before and after, and its share of zeros.

        Raises:
            UserError: there is no layer, or matplotlib is not installed.
        """
        return layers(self.report["layers"])
