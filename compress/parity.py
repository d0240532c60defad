"""Whether an ONNX file answers as the torch model does, on the inputs that the evaluation sends."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import ParityError, UserError
from compress.outputs import predictor
from compress.task import Predict, Task

SAMPLES = 256
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


class _Enough(BaseException):
    """Ends an evaluation from inside once enough inputs were seen. Not an Exception: user code must not swallow it."""


def evaluation_inputs(task: Task, samples: int = SAMPLES) -> tuple[list[tuple[Tensor, ...]], str]:
    """The first `samples` inputs that `task.evaluate` sends, in its batches; else the examples and 64 noisy copies.

    Raises:
        UserError: `task.evaluate` sends nothing.
    """
    if task.evaluate is None:
        generator = torch.Generator().manual_seed(0)
        batches = [task.example_inputs]
        for _ in range(64):
            noisy = (_noisy(x[:1], generator) for x in task.example_inputs)
            batches.append(tuple(noisy))
        return batches, "noisy examples"
    seen: list[tuple[Tensor, ...]] = []
    count = 0

    def record(*inputs: Tensor | np.ndarray) -> np.ndarray:
        nonlocal count
        given = tuple(torch.as_tensor(x)[: samples - count] for x in inputs)
        seen.append(given)
        count += len(given[0])
        raise_if_enough()
        return np.zeros((len(inputs[0]), 2), np.float32)

    def raise_if_enough() -> None:
        if count >= samples:
            raise _Enough

    try:
        task.evaluate(record)
    except _Enough:
        pass
    except Exception:  # an evaluation that looks at the scores may stumble over our zeros
        if not seen:
            raise
    if not seen:
        raise UserError("Task.evaluate returned without a call of predict; it must send its inputs through predict(*inputs)")
    return seen, "evaluation"


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    if not x.is_floating_point():
        return x
    spread = x.std(correction=0)  # zero for a constant example, such as torch.zeros(...); noise of size 0.1 then
    return x + 0.1 * (spread if spread > 0 else 1.0) * torch.randn(x.shape, generator=generator)


def compare(expected: np.ndarray, found: np.ndarray, kind: str, on: str = "evaluation") -> Parity:
    """Hold outputs (samples, ..., classes) against each other; `kind` is `fp32`, `fp16` or `int8`.

    A model with a single output per sample has no top-1: there, agreement is the share of outputs within one tie's width.
    """
    span = float(expected.max() - expected.min()) or 1.0
    error = float(np.abs(found - expected).max()) / span
    axis = 1 if expected.ndim == 4 else -1
    if expected.ndim < 2 or expected.shape[axis] < 2:
        return Parity(float(np.mean(np.abs(found - expected) <= TIE[kind] * span)), error, len(expected), 0, on)
    wanted, got = expected.argmax(axis), found.argmax(axis)
    top = np.take_along_axis(expected, np.expand_dims(wanted, axis), axis)
    other = np.take_along_axis(expected, np.expand_dims(got, axis), axis)
    differs = wanted != got
    tied = differs & (np.squeeze(top - other, axis) <= TIE[kind] * span)
    counted = differs.size - int(tied.sum())
    agreement = 1.0 - (int(differs.sum()) - int(tied.sum())) / counted if counted else 1.0
    return Parity(agreement, error, len(expected), int(tied.sum()), on)


def check_parity(model: nn.Module, predict: Predict, task: Task, kind: str, name: str) -> Parity:
    """Compare the file behind `predict` with `model`.

    Raises:
        ParityError: agreement is below `NEEDED`; holds both numbers.
    """
    batches, on = evaluation_inputs(task)
    torch_predict: Callable[..., np.ndarray] = predictor(model)
    expected = np.concatenate([torch_predict(*batch) for batch in batches])
    found = np.concatenate([predict(*batch) for batch in batches])
    parity = compare(expected, found, kind, on)
    if not (parity.top1_agreement >= NEEDED[kind] and np.isfinite(parity.max_rel_error)):
        raise ParityError(
            f"{name} and the torch model disagree: equal top-1 on {parity.top1_agreement:.4f} of {parity.samples} samples, "
            f"{NEEDED[kind]} is needed; largest relative error {parity.max_rel_error:.4g}"
        )
    return parity
