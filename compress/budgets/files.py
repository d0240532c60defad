"""What a pruner's cut networks cost as files: bytes, and milliseconds beside the baseline."""

from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from compress.budgets.cost import Cost, steady
from compress.budgets.target import Budget
from compress.export import signature
from compress.gauge import Gauge
from compress.pruning.channels import ChannelPruner

# One timing of a network beside the baseline, in seconds.
TIMING = {"min_runs": 10, "min_seconds": 0.3, "max_seconds": 5.0}


class CutFiles:
    """Writes a pruner's cut networks as ONNX files and measures them.

    Args:
        reference: the baseline: the network that fractions refer to.
        pruner: cuts the others.
        folder: for the files.
        threads: of the runtime that is timed.
    """

    def __init__(
        self, reference: nn.Module, pruner: ChannelPruner, example_inputs: tuple[Tensor, ...], folder: Path, threads: int
    ) -> None:
        self._pruner = pruner
        self._gauge = Gauge(folder, example_inputs, signature(reference, example_inputs), None, threads, TIMING)
        self._baseline = self._gauge.write(reference, "baseline")

    @property
    def baseline_size(self) -> float:
        return float(self._baseline.stat().st_size)

    @cached_property
    def baseline_latency(self) -> float:
        """Milliseconds, p50 of single samples."""
        return self._gauge.latency_ms(self._baseline)

    def _write(self, ratio: float) -> Path:
        return self._gauge.write(self._pruner.verified(ratio)[0], "cut")

    def size(self, ratio: float) -> float:
        """Bytes of the file."""
        return float(self._write(ratio).stat().st_size)

    def latency(self, ratio: float, budget: Budget) -> Cost:
        """Milliseconds, p50 of single samples, timed beside the baseline.

        Against a fraction it is the ratio of the two, so that a machine that is slower for a while changes nothing, times the
        baseline's first timing.
        """
        path = self._write(ratio)

        def draw() -> float:
            before, after = self._gauge.latencies_ms(self._baseline, path)
            return after / before * self.baseline_latency if budget.fraction else after

        return steady(draw, budget.limit(self.baseline_latency))
