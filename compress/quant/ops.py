"""`fake_quantize`: round to a grid of integers and back, as one operator that ONNX export writes as a Q/DQ pair.

An operator of our own, since torch 2.13 can trace none of its `fake_quantize_*` family with `torch.export`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("compress::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """scale * (clamp(round(x / scale) + zero_point) - zero_point), rounding halves to even.

    Args:
        x: float tensor (channels, ...).
        scale: float32, a scalar, or (channels,) for one scale per index of axis 0.
        zero_point: uint8 or int8, shaped as `scale`; its type says to which range the integers are clamped.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 2.1.
    """
    limits = torch.iinfo(zero_point.dtype)
    return on_grid(x, scale, zero_point, limits.min, limits.max)


def on_grid(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """What `fake_quantize` computes, with integers clamped to `low` and `high`."""
    if scale.ndim == 0:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point.int(), low, high)
    return torch.fake_quantize_per_channel_affine(x, scale, zero_point.int(), 0, low, high)


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x)


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export(custom_translation_table=...)` needs to write our operator."""
    from onnxscript import opset18

    op: Any = opset18

    def q_dq(x: Any, scale: Any, zero_point: Any) -> Any:
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point, axis=0), scale, zero_point, axis=0)

    return {torch.ops.compress.fake_quantize.default: q_dq}
