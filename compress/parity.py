"""Whether an ONNX file answers as the torch model does, on the inputs that the evaluation sends."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import ParityError, UserError
from compress.outputs import predictor
from compress.task import Predict, Task

# So many inputs are compared whatever it takes, and more of the evaluation's until the seconds are over: torch computes
# rounded numbers many times slower than the runtime.
LEAST_SAMPLES = 256
SECONDS = 10.0
NEEDED = {"fp32": 0.999, "fp16": 0.98, "int8": 0.99}
# Two scores closer than this share of the output range are a tie: rounding may order them either way.
TIE = {"fp32": 1e-4, "fp16": 1e-3, "int8": 1 / 255}


@dataclass(frozen=True)
class Parity:
    """Agreement of a file with its torch model.

    Attributes:
        top1_agreement: share of samples with the same largest output; ties are left out of both counts.
        max_rel_error: largest absolute difference over the range of torch's outputs.
        samples: how many were compared.
        ties: how many differed only between outputs that are as good as equal.
        on: `evaluation`, or `noisy examples` where there are no evaluation data.
    """

    top1_agreement: float
    max_rel_error: float
    samples: int
    ties: int
    on: str


class Comparison:
    """Holds outputs (samples, ..., classes), or (samples, classes, rows, columns), against each other, batch by batch.

    A model with a single output per sample has no top-1: there, agreement is the share of outputs within one tie's width.
    Memory grows with the outputs that differ, not with all of them.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._positions = 0
        self._low, self._high, self._error = np.inf, -np.inf, 0.0
        # By how much, in torch's scores, its winner beats the file's, where that is another; of single outputs, all differences.
        self._gaps: list[np.ndarray] = []
        self._single = False

    def add(self, expected: np.ndarray, found: np.ndarray) -> None:
        """One batch: torch's outputs and the file's."""
        self.samples += len(expected)
        # Of numpy, not of Python: what is no number must not get lost.
        self._low, self._high = np.minimum(self._low, expected.min()), np.maximum(self._high, expected.max())
        self._error = np.maximum(self._error, np.abs(found - expected).max())
        axis = 1 if expected.ndim == 4 else -1
        if expected.ndim < 2 or expected.shape[axis] < 2:
            self._single = True
            self._positions += expected.size
            self._gaps.append(np.abs(found - expected).ravel())
            return
        wanted, got = (np.expand_dims(scores.argmax(axis), axis) for scores in (expected, found))
        gaps = np.take_along_axis(expected, wanted, axis) - np.take_along_axis(expected, got, axis)
        self._positions += wanted.size
        self._gaps.append(gaps[wanted != got])

    def parity(self, kind: str, on: str = "evaluation") -> Parity:
        """What all batches come to; `kind` is `fp32`, `fp16` or `int8`."""
        span = float(self._high - self._low) or 1.0
        error = float(self._error) / span
        gaps = np.concatenate(self._gaps)
        within = int((gaps <= TIE[kind] * span).sum())
        if self._single:
            return Parity(within / self._positions, error, self.samples, 0, on)
        counted = self._positions - within
        agreement = 1.0 - (len(gaps) - within) / counted if counted else 1.0
        return Parity(agreement, error, self.samples, within, on)


class _Enough(BaseException):
    """Ends an evaluation from inside once enough inputs were seen. Not an Exception: user code must not swallow it."""


def check_parity(model: nn.Module, predict: Predict, task: Task, kind: str, name: str) -> Parity:
    """Compare the file behind `predict` with `model` on what `task.evaluate` sends; without it on the examples and noisy copies.

    All of it, or where that takes more than 10 s, as much as they are enough for, but at least 256 inputs.

    Raises:
        UserError: `task.evaluate` sends nothing.
        ParityError: agreement is below `NEEDED`; holds both numbers.
    """
    torch_predict, comparison, begun = predictor(model), Comparison(), time.monotonic()

    def both(*inputs: Tensor | np.ndarray) -> np.ndarray:
        """The file's answer, for the evaluation to go on with."""
        answers = []
        for start in range(0, len(inputs[0]), LEAST_SAMPLES):  # an evaluation may send all that it has at once
            part = tuple(torch.as_tensor(x)[start : start + LEAST_SAMPLES] for x in inputs)
            answers.append(predict(*part))
            comparison.add(torch_predict(*part), answers[-1])
            if comparison.samples >= LEAST_SAMPLES and time.monotonic() - begun >= SECONDS:
                raise _Enough
        return np.concatenate(answers)

    if task.evaluate is None:
        for batch in _noisy_copies(task.example_inputs):
            both(*batch)
    else:
        with contextlib.suppress(_Enough):
            task.evaluate(both)
    if comparison.samples == 0:
        raise UserError("Task.evaluate returned without a call of predict; it must send its inputs through predict(*inputs)")
    parity = comparison.parity(kind, "noisy examples" if task.evaluate is None else "evaluation")
    if not (parity.top1_agreement >= NEEDED[kind] and np.isfinite(parity.max_rel_error)):
        raise ParityError(
            f"{name} and the torch model disagree: equal top-1 on {parity.top1_agreement:.4f} of {parity.samples} samples, "
            f"{NEEDED[kind]} is needed; largest relative error {parity.max_rel_error:.4g}"
        )
    return parity


def _noisy_copies(example: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """The examples, then 64 times the first of them with noise, the same on each call."""
    generator = torch.Generator().manual_seed(0)
    yield example
    for _ in range(64):
        yield tuple(_noisy(x[:1], generator) for x in example)


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    if not x.is_floating_point():
        return x
    spread = x.std(correction=0)  # zero for a constant example, such as torch.zeros(...); noise of size 0.1 then
    return x + 0.1 * (spread if spread > 0 else 1.0) * torch.randn(x.shape, generator=generator)
