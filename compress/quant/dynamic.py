"""Activations quantized as they come: scale and zero point from the tensor at hand, so that nothing has to be calibrated."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


@torch.library.custom_op("compress::dynamic_fake_quantize", mutates_args=())
def dynamic_fake_quantize(x: Tensor) -> Tensor:
    """A float tensor, of any shape but empty, rounded to 256 steps over its own range, which is widened to hold zero.

    The range is that of the whole tensor, so that a sample's result depends on what else is in its batch.

    Source: ONNX standard, operator DynamicQuantizeLinear (opset 11).
    """
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    span = high - low
    scale = torch.where(span > 0, span / 255, 1.0)  # of zeros alone any scale would do
    zero_point = (-low / scale).round().clamp(0, 255)
    codes = ((x / scale).round() + zero_point).clamp(0, 255)
    return (codes - zero_point) * scale


@dynamic_fake_quantize.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class DynamicQuantizer(nn.Module):
    """An activation as uint8 with one scale and zero point for the tensor, found anew in each call; has no state."""

    def forward(self, x: Tensor) -> Tensor:
        return dynamic_fake_quantize(x)


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export(custom_translation_table=...)` needs to write our operator."""
    from onnxscript import opset18

    op: Any = opset18

    def q_dq(x: Any) -> Any:
        codes, scale, zero_point = op.DynamicQuantizeLinear(x)
        return op.DequantizeLinear(codes, scale, zero_point)

    return {torch.ops.compress.dynamic_fake_quantize.default: q_dq}
