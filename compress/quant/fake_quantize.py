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

    Args:
        symmetric: a range with both signs is widened to [-r, r], with zero at the code 128.

    Buffers: `scale` (float32) and `zero_point` (uint8), both scalars.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, *, symmetric: bool = False) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.uint8))

    def set_range(self, low: float, high: float) -> None:
        """Cover [low, high], widened to hold zero: padding and ReLU need an exact zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if self.symmetric and low < 0 < high:
            reach = max(-low * 127 / 128, high)  # the codes go from -128 to 127 around zero
            low, high = -reach * 128 / 127, reach
        scale = max((high - low) / 255, SMALLEST_SCALE)
        self.scale.fill_(scale)
        self.zero_point.fill_(min(255, round(-low / scale)))

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.scale, self.zero_point)


class WeightQuantizer(nn.Module):
    """One scale for each output channel (axis 0) of a weight, or one for all of it; int8, zero point 0.

    Args:
        channels: the length of axis 0; None for one scale.
        bits: 2 to 8; codes go from -(2^(bits-1) - 1) to 2^(bits-1) - 1, which is 127 at 8. Processors without VNNI need 7
            (63): their sums of uint8 x int8 products saturate in 16 bits otherwise.

    Buffers: `scale` (float32) and `zero_point` (int8), both (channels,) or scalars.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, channels: int | None, bits: int = 8) -> None:
        super().__init__()
        self.bits, self.largest_code = bits, 2 ** (bits - 1) - 1
        shape = () if channels is None else (channels,)
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int8))

    def set_from(self, weight: Tensor) -> None:
        """Cover the largest magnitude of each channel of `weight` (channels, ...), or of all of it."""
        magnitudes = weight.detach().flatten(1).abs()
        largest = magnitudes.amax(1) if self.scale.ndim else magnitudes.amax()
        self.scale.copy_((largest / self.largest_code).clamp(min=SMALLEST_SCALE))

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.scale, self.zero_point)
