"""What every loss asks of its arguments."""

import torch
from torch import Tensor

from compress.errors import UserError


def check_fit(fits: bool, loss: str, student: Tensor, teacher: Tensor, wanted: str) -> None:
    """Raise UserError with both shapes and with what is wanted of them, unless they fit."""
    if not fits:
        shapes = f"the student's {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}"
        raise UserError(f"{loss}: {shapes} do not fit: {wanted}")


def check_target(loss: str, student: Tensor, target: Tensor) -> None:
    """Raise UserError unless there is one class index for each sample of `student`."""
    if target.shape != student.shape[:1] or target.dtype != torch.int64:
        found = f"{str(target.dtype).removeprefix('torch.')} of shape {tuple(target.shape)}"
        raise UserError(f"{loss}: the target must be one class index (int64) for each of {len(student)} samples, got {found}")


def check_temperature(loss: str, temperature: float) -> None:
    """Raise UserError unless a temperature is above 0."""
    if not temperature > 0:
        raise UserError(f"{loss}: temperature must be above 0, got {temperature}")
