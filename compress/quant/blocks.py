"""Weights of 4 or 8 bits with a scale for each block of inputs of each output."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.quant.fake_quantize import SMALLEST_SCALE


@torch.library.custom_op("compress::fake_quantize_blocks", mutates_args=())
def fake_quantize_blocks(weight: Tensor, scale: Tensor, zero_point: Tensor, block_size: int, bits: int) -> Tensor:
    """scale * (clamp(round(weight / scale) + zero_point, 0, 2^bits - 1) - zero_point), rounding halves to even.

    Args:
        weight: float32 (rows, inputs).
        scale, zero_point: float32 and uint8, (rows, blocks); block b is of the inputs from b * block_size on, and the last
            may be shorter.
    """
    steps, zeros = (each.repeat_interleave(block_size, 1)[:, : weight.shape[1]] for each in (scale, zero_point.float()))
    return (((weight / steps).round() + zeros).clamp(0, 2**bits - 1) - zeros) * steps


@fake_quantize_blocks.register_fake
def _(weight: Tensor, scale: Tensor, zero_point: Tensor, block_size: int, bits: int) -> Tensor:
    return torch.empty_like(weight)


class BlockQuantizer(nn.Module):
    """A weight (rows, inputs) rounded to codes 0 to 2^bits - 1, with a scale and a zero point for each block of inputs.

    Args:
        rows, inputs: the weight's shape.
        bits: 4 or 8.
        block_size: inputs that share a scale; None for one block of all.
        symmetric: the zero point is 2^(bits-1), and the codes lie evenly around it; else block by block where the range,
            widened to hold zero, has it.

    Buffers: `scale` (float32) and `zero_point` (uint8), both (rows, blocks).

    Source: Dettmers, Zettlemoyer 2023, "The case for 4-bit precision: k-bit Inference Scaling Laws", section 2 (blocking);
    Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", section 4
    (grouping). Codes are rounded to nearest, as in both papers' baseline.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, rows: int, inputs: int, bits: int, block_size: int | None = None, *, symmetric: bool = True) -> None:
        super().__init__()
        self.bits, self.symmetric = bits, symmetric
        self.block_size = min(block_size or inputs, inputs)
        blocks = -(-inputs // self.block_size)
        self.register_buffer("scale", torch.ones(rows, blocks))
        self.register_buffer("zero_point", torch.full((rows, blocks), 2 ** (bits - 1), dtype=torch.uint8))

    @torch.no_grad()
    def set_from(self, weight: Tensor) -> None:
        """Cover the values of each block of `weight`."""
        missing = self.scale.shape[1] * self.block_size - weight.shape[1]
        blocks = F.pad(weight, (0, missing)).view(*self.scale.shape, self.block_size)  # zeros change no range
        largest_code = 2**self.bits - 1
        if self.symmetric:
            self.scale.copy_((blocks.abs().amax(2) / (largest_code // 2)).clamp(min=SMALLEST_SCALE))
            return
        low, high = blocks.amin(2).clamp(max=0), blocks.amax(2).clamp(min=0)
        self.scale.copy_(((high - low) / largest_code).clamp(min=SMALLEST_SCALE))
        self.zero_point.copy_((-low / self.scale).round().clamp(0, largest_code))

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize_blocks(weight, self.scale, self.zero_point, self.block_size, self.bits)


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export(custom_translation_table=...)` needs to write our operator.

    The standard has no operator for blocks before opset 21, and none for 4 bits that a runtime computes with: what is
    written is one of our own, which `compress.onnx_rewrites.blocks` replaces.
    """
    from onnx.defs import OpSchema
    from onnxscript import values

    domain, name = "compress", "FakeQuantizeBlocks"
    schema = OpSchema(
        name,
        domain,
        1,
        inputs=[OpSchema.FormalParameter(each, kind) for each, kind in (("weight", "T"), ("scale", "T"), ("zero_point", "Z"))],
        outputs=[OpSchema.FormalParameter("rounded", "T")],
        type_constraints=[("T", ["tensor(float)"], ""), ("Z", ["tensor(uint8)"], "")],
        attributes=[OpSchema.Attribute(each, OpSchema.AttrType.INT, "") for each in ("block_size", "bits")],
    )
    op: Any = values.Op(values.Opset(domain, 1), name, schema)

    def marked(weight: Any, scale: Any, zero_point: Any, block_size: int, bits: int) -> Any:
        return op(weight, scale, zero_point, block_size=block_size, bits=bits)

    return {torch.ops.compress.fake_quantize_blocks.default: marked}
