"""Quantizers as modules: they hold a scale and a zero point, and pass their input through the integer grid.

The forward has no branch on calibrated data: that is what stops the ONNX exporter.
"""

import torch
from torch import Tensor, nn

from compress.quant.ops import fake_quantize

# The smallest scale: the product of two, which is the step of a bias, is still a normal number of float32.
SMALLEST_SCALE = 1e-12


class ActivationQuantizer(nn.Module):
    """One scale and zero point for a whole tensor; integers 0 to 255 (uint8), so that zero is exact.

    Buffers: `scale` (float32) and `zero_point` (uint8), both scalars.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.uint8))

    def set_range(self, low: float, high: float) -> None:
        """Cover [low, high], widened to hold zero: padding and ReLU need an exact zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, SMALLEST_SCALE)
        self.scale.fill_(scale)
        self.zero_point.fill_(min(255, round(-low / scale)))

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.scale, self.zero_point)


class WeightQuantizer(nn.Module):
    """One scale for each output channel (axis 0) of a weight; int8, zero point 0.

    Args:
        channels: the length of axis 0.
        bits: 8 (codes -127 to 127), or 7 (-63 to 63) for processors without VNNI, whose sums of uint8 x int8 products
            saturate in 16 bits otherwise.

    Buffers: `scale` (float32) and `zero_point` (int8), both (channels,).
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, channels: int, bits: int = 8) -> None:
        super().__init__()
        self.largest_code = 2 ** (bits - 1) - 1
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("zero_point", torch.zeros(channels, dtype=torch.int8))

    def set_from(self, weight: Tensor) -> None:
        """Cover the largest magnitude of each channel of `weight` (channels, ...)."""
        largest = weight.detach().flatten(1).abs().amax(1)
        self.scale.copy_((largest / self.largest_code).clamp(min=SMALLEST_SCALE))

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.scale, self.zero_point)
