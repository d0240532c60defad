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


def check_heads(loss: str, x: Tensor, heads: int) -> None:
    """Raise UserError unless `heads` divides the width of `x` (N, T, width)."""
    if heads < 1 or x.shape[2] % heads:
        raise UserError(f"{loss}: heads must divide the width, got {heads} for {tuple(x.shape)}")


def check_mask(loss: str, mask: Tensor | None, tokens: tuple[int, int]) -> None:
    """Raise UserError unless there is no mask, or one of booleans of shape `tokens` (N, T) that is true somewhere."""
    if mask is None:
        return
    if mask.dtype != torch.bool or mask.shape != tokens:
        found = f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
        raise UserError(f"{loss}: the mask must be bool of shape {tokens}, got {found}")
    if not mask.any():
        raise UserError(f"{loss}: the mask of shape {tokens} is true for no token")
