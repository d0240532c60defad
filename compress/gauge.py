"""Networks that are tried: written as files, scored, and timed one beside another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from compress.export import Signature, export_onnx
from compress.measure import open_onnx, time_interleaved
from compress.measure.environment import available_cores


@dataclass(frozen=True)
class Gauge:
    """Measures networks of one task by their ONNX files.

    Args:
        folder: for the files.
        example_inputs: one tensor per argument of `forward`, batch first.
        signature: of the networks' forward.
        judge: scores a prediction function, larger is better; None where nothing is scored.
        threads: of the timed runtime; scores are computed with all cores.
        runtime: that runs the files, see `open_onnx`.
        timing: limits of the timing loop, see `time_interleaved`.
    """

    folder: Path
    example_inputs: tuple[Tensor, ...]
    signature: Signature
    judge: Callable[[Callable[..., np.ndarray]], float] | None
    threads: int = 1
    timing: Mapping[str, float] = field(default_factory=lambda: {"min_seconds": 0.5})
    runtime: str = "ort-cpu"

    def write(self, model: nn.Module, name: str) -> Path:
        """The file of a network."""
        path = self.folder / f"{name}.onnx"
        export_onnx(model, self.example_inputs, path, self.signature)
        return path

    def score(self, path: Path) -> float | None:
        """What the judge says of a file."""
        return None if self.judge is None else float(self.judge(open_onnx(path, self.runtime, available_cores()).predict))

    def latency_ms(self, path: Path) -> float:
        """p50 of single samples of a file."""
        return self._time([path])[0]

    def latencies_ms(self, first: Path, second: Path) -> tuple[float, float]:
        """p50 of single samples of two files, interleaved."""
        before, after = self._time([first, second])
        return before, after

    def _time(self, paths: list[Path]) -> list[float]:
        x = [x[:1].numpy() for x in self.example_inputs]
        sessions = [open_onnx(path, self.runtime, self.threads) for path in paths]
        calls = {str(number): (lambda s=session: s.run(*x)) for number, session in enumerate(sessions)}
        return [float(np.median(times)) for times in time_interleaved(calls, **self.timing).values()]  # type: ignore[arg-type]
