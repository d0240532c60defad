"""What stays the same from the first pass to the last: the inputs, the data, and how a model is judged."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

# Takes input tensors or arrays, batch first; gives the model's first output as an array. A torch module and an ONNX file
# are wrapped alike, so that both are scored by the same lines of `evaluate`.
Predict = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Task:
    """What a model is for.

    Args:
        example_inputs: one tensor per argument of `forward`, batch first.
        evaluate: scores a prediction function; larger is better, accuracy is a fraction in [0, 1]. Called only to report.
        calibration: an iterable of input tuples, anew on each call; what int8 ranges are measured on.
        train: one epoch of `(*inputs, target)` batches, anew on each call; shuffles with torch's global generator.
        validate: like `evaluate`, on data that is kept for choosing (checkpoints, ratios, layers).

    A pass says which of these it needs, and a pipeline says before it starts which is missing.
    """

    example_inputs: tuple[Tensor, ...]
    evaluate: Callable[[Predict], float] | None = None
    calibration: Callable[[], Iterable[tuple[Tensor, ...]]] | None = None
    train: Callable[[], Iterable[tuple[Tensor, ...]]] | None = None
    validate: Callable[[Predict], float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.example_inputs, tuple) or not all(isinstance(x, Tensor) for x in self.example_inputs):
            found = _describe(self.example_inputs)
            raise TypeError(f"Task(example_inputs=...) must be a tuple of tensors, batch first; got {found}")
        if not self.example_inputs:
            raise TypeError("Task(example_inputs=...) is empty; give one tensor per argument of forward")


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return "a tuple of " + ", ".join(type(x).__name__ for x in value)
    return f"a {type(value).__name__}"
