"""Compress PyTorch models: prune, quantize, distil, export to ONNX, and measure what was written.

import compress
from compress.passes.prune_channels import PruneChannels

smaller = compress.apply(PruneChannels(ratio=0.5), model, compress.Task(example_inputs=(x,)))
"""

from compress import measure, plots
from compress.comparison import compare
from compress.errors import CompressError, ParityError, PassError, UserError
from compress.inspection import Inspection, inspect
from compress.pipeline import apply
from compress.planning import PruningPlan, plan
from compress.run import Run, load, run
from compress.sensitivity import Sensitivity, sensitivity
from compress.task import Task

__version__ = "0.1.0"
__all__ = [
    "CompressError",
    "Inspection",
    "ParityError",
    "PassError",
    "PruningPlan",
    "Run",
    "Sensitivity",
    "Task",
    "UserError",
    "apply",
    "compare",
    "inspect",
    "load",
    "measure",
    "plan",
    "plots",
    "run",
    "sensitivity",
]
