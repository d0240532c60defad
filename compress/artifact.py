"""What flows through a pipeline: the model as it stands, and the rows of the table so far."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from compress.export import CaptureError, Signature, captured_inputs, signature
from compress.intake import own_copy
from compress.task import Task


@dataclass(frozen=True)
class Record:
    """One row of the table: a stage, what it cost and what its ONNX file does. Written by the pipeline, never by a pass.

    Attributes:
        seconds: what the pass itself took, without measuring.
        accuracy: what `Task.evaluate` gives for the stage's ONNX file, a fraction; None without evaluation data.
        size_bytes: of the stage's ONNX file.
        latency_ms: `p50`, `p90`, `p99`, `batch`, `runtime`, `threads`, of that file.
        notes: what a person should know about this stage.
        details: plain data of the pass's own, such as the trials of a search.
    """

    name: str
    options: dict[str, Any]
    seconds: float
    accuracy: float | None
    eval_samples: int | None
    params: int
    nonzero_params: int
    macs: int
    size_bytes: int
    latency_ms: dict[str, Any]
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


def record_to_dict(record: Record) -> dict[str, Any]:
    """A record as plain data."""
    return {**asdict(record), "notes": list(record.notes)}


def record_from_dict(values: dict[str, Any]) -> Record:
    """The reverse of `record_to_dict`."""
    return Record(**{**values, "notes": tuple(values["notes"])})


@dataclass(frozen=True)
class Artifact:
    """A model between two passes.

    Attributes:
        model: a copy that the pass may change at will.
        task: the same from first pass to last.
        reference: the untouched original: teacher and yardstick. Not to be changed.
        captured: names and dynamic axes of the inputs; or why the forward cannot be captured, which is raised once somebody
            asks for the signature. Passes that need no graph work without.
        last_float: the latest model without quantizers; what half precision is made of.
        history: the stages so far.
        threads: of the runtime that the run is timed with.
        notes: a pass may append what a person should know (layers it protected, a range it chose).
        details: a pass may put plain data there, which the report keeps.
        file: the ONNX file of `model`, where it is written.
        written: a pass that had to write the file of the model that it gives back may append its path; it is not written again.
        progress: a folder in which a pass finds again what it wrote there before it was interrupted; None where none is kept.
    """

    model: nn.Module
    task: Task
    reference: nn.Module
    captured: Signature | CaptureError
    last_float: nn.Module
    history: tuple[Record, ...] = ()
    threads: int = 1
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    written: list[Path] = field(default_factory=list)
    progress: Path | None = None

    @classmethod
    def start(cls, model: nn.Module, task: Task) -> "Artifact":
        """The artefact before the first pass, of a copy of `model` on the CPU.

        Raises:
            UserError: the model cannot be copied, or does not run on the example inputs.
        """
        model = own_copy(model)
        task = replace(task, example_inputs=tuple(x.cpu() for x in task.example_inputs))
        found: Signature | CaptureError
        try:
            found = signature(model, task.example_inputs)
            if not found.axes[0]:  # a graph with a fixed batch is captured, checked and timed with the same inputs
                task = replace(task, example_inputs=captured_inputs(model, task.example_inputs, found))
        except CaptureError as error:
            found = error
        return cls(model, task, model, found, model)

    @property
    def signature(self) -> Signature:
        """Names and dynamic axes of the inputs.

        Raises:
            CaptureError: the forward cannot be captured, so that it cannot be exported or quantized.
        """
        if isinstance(self.captured, CaptureError):
            raise self.captured
        return self.captured
