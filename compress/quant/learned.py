"""Quantizers that train: rounding passes gradients straight through, and the step size may be a parameter."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from compress.quant.fake_quantize import SMALLEST_SCALE, ActivationQuantizer, WeightQuantizer
from compress.quant.ops import on_grid


class LearnedQuantizer(nn.Module):
    """Stands in for an ordinary quantizer while a network trains; the forward gives the same numbers.

    It computes in float32 under autocast, too: codes of 8 bits do not survive bfloat16, which has 8 bits itself.

    Args:
        ordinary: where the scale starts, and where `write_back_` leaves it. The zero point stays, so that zero is exact.
        learn: whether the scale is trained; otherwise only what goes through is.

    Parameters: `scale` (float32), shaped as the ordinary quantizer's.

    Source: Esser et al. 2020, "Learned Step Size Quantization", section 2.
    """

    def __init__(self, ordinary: ActivationQuantizer | WeightQuantizer, *, learn: bool = True) -> None:
        super().__init__()
        self.ordinary = ordinary
        self.scale = nn.Parameter(ordinary.scale.clone(), requires_grad=learn)
        self.of_weight = isinstance(ordinary, WeightQuantizer)
        self.low, self.high = 0, 255
        if isinstance(ordinary, WeightQuantizer):
            self.low, self.high = -ordinary.largest_code, ordinary.largest_code
        zero = int(ordinary.zero_point.max())
        self.largest_code = max(self.high - zero, zero - self.low)  # counted from zero: the paper's Q_P

    def forward(self, x: Tensor) -> Tensor:
        # Of activations the paper counts the features of one sample.
        values = x.numel() / self.scale.numel() if self.of_weight else x.numel() / max(len(x), 1)
        factor = 1 / math.sqrt(max(values, 1) * self.largest_code)
        return _StraightThrough.apply(x.float(), self.scale, self.ordinary.zero_point, self.low, self.high, factor)

    @torch.no_grad()
    def write_back_(self) -> nn.Module:
        """The ordinary quantizer, in place with the scale as it was trained."""
        self.ordinary.scale.copy_(self.scale.clamp(min=SMALLEST_SCALE))
        return self.ordinary


class _StraightThrough(torch.autograd.Function):
    """`on_grid` with the gradients of the paper's equations 3 and 5, that of the scale times `factor` (section 2.2).

    One difference: a value is clipped when its code is, so that the largest weight of a channel, which sits on the edge
    after calibration, is inside whatever its division rounds to. The paper clips first, half a step earlier.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, factor: float) -> Tensor:
        # Here, and not before: a scale that a step took below the smallest still gets its gradient, and can return.
        scale = scale.clamp(min=SMALLEST_SCALE)
        rounded = on_grid(x, scale, zero_point, low, high)
        ctx.save_for_backward(x, rounded, scale)
        ctx.factor = factor
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, rounded, scale = ctx.saved_tensors
        steps = scale.view(-1, *[1] * (x.ndim - 1)) if scale.ndim else scale
        error = rounded - x
        inside = error.abs() <= 0.501 * steps  # half a step, and some for the rounding of the numbers themselves
        to_x = gradient * inside
        to_scale = None
        if ctx.needs_input_grad[1]:
            each = gradient * torch.where(inside, error, rounded)  # times the scale
            to_scale = (each.flatten(1).sum(1) if scale.ndim else each.sum()) * (ctx.factor / scale)
        return to_x, to_scale, None, None, None, None
