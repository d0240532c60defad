"""Pictures of what was measured, drawn by matplotlib (extra `plot`); a notebook shows them, `save` writes them.

>>> from compress import plots
>>> found = plots.layers([{"name": "stem", "width_before": 64, "width_after": 32, "sparsity": 0.0}])
>>> found.axes[0].get_xlabel()
'output channels'
"""

from compress.plots.figure import check_format, save
from compress.plots.integers import layer_errors
from compress.plots.of_run import RunPlots
from compress.plots.single_changes import sensitivity
from compress.plots.trade_off import pareto
from compress.plots.widths import layers

__all__ = ["RunPlots", "check_format", "layer_errors", "layers", "pareto", "save", "sensitivity"]
