"""What range an activation takes, measured on calibration data in constant memory."""

import torch
from torch import Tensor, nn

from compress.errors import UserError

BINS = 2048


class HistogramObserver(nn.Module):
    """Passes a tensor through unchanged and keeps a histogram of its values other than zero.

    Memory does not grow with the number of samples: when a value falls outside, neighbouring bins are merged until the
    range holds it.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.low = self.high = 0.0  # the extremes that were seen, zero included
        self.reach = 0.0  # the histogram covers [-reach, reach]

    def forward(self, x: Tensor) -> Tensor:
        values = x.detach().float()
        low, high = (value.item() for value in torch.aminmax(values))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise UserError(f"calibration met a NaN or an infinity in the output of '{self.name}'; check the model and its input")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        if self.reach > 0:
            # Exact zeros, in sparse activations most of all values, cost nothing at any scale, which always holds zero.
            self.counts += torch.histc(values[values != 0], BINS, -self.reach, self.reach).double()
        return x

    def _widen(self, needed: float) -> None:
        if needed <= self.reach:
            return
        if self.reach == 0:
            self.reach = needed
            return
        while self.reach < needed:  # twice the reach: each pair of old bins becomes one of the inner half
            merged = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat([torch.zeros(BINS // 4), merged, torch.zeros(BINS // 4)]).double()
            self.reach *= 2

    def minmax(self) -> tuple[float, float]:
        """The smallest and largest value seen, widened to hold zero."""
        return self.low, self.high

    def mse(self) -> tuple[float, float]:
        """The range, within the one seen, whose 256 levels give the smallest mean squared error.

        Rounding costs scale^2 / 12 per value inside; clipping costs the squared distance to the edge outside. A
        one-sided tensor keeps its edge at zero.

        Source: Banner, Nahshan, Soudry 2019, "Post training 4-bit quantization of convolutional networks", section 3.
        """
        if self.reach == 0:
            return 0.0, 0.0
        width = 2 * self.reach / BINS
        centers = (torch.arange(BINS, dtype=torch.float64) + 0.5) * width - self.reach
        best, best_error = self.minmax(), float("inf")
        for share in torch.linspace(0.4, 1.0, 61).tolist():
            low, high = self.low * share, self.high * share
            scale = (high - low) / 255
            clipped = (low - centers).clamp(min=0) + (centers - high).clamp(min=0)
            inside = clipped == 0
            error = float((self.counts * torch.where(inside, scale**2 / 12, clipped**2)).sum())
            if error < best_error:
                best, best_error = (low, high), error
        return best
