"""What values an activation takes, gathered over calibration data in constant memory."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import UserError

BINS = 4096
# Weight of the newest batch in the moving average of extremes.
MOMENTUM = 0.1
# About so many values of a batch are counted where there are twice as many: a histogram of 4096 bins gains nothing by more, and
# counting takes as long as computing them. The extremes are those of all values.
COUNTED = 2**17


class HistogramObserver(nn.Module):
    """Passes a tensor through unchanged and keeps a histogram of its values other than zero; of large tensors, of some of them.

    Memory does not grow with the number of samples: when a value falls outside, neighbouring bins are merged until the
    range holds it.

    Args:
        name: of the tensor, for a message: `the output of 'layer1.conv1'`.

    Attributes:
        counts: (BINS,), of the counted values other than zero, in equal bins over [-reach, reach].
        zeros: how many of the counted values were exactly zero.
        low, high: the extremes that were seen, zero included.
        average: (low, high) as a moving average of the batches' extremes; None before the first batch.
        counting: whether values are looked at; while False they only pass through.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.zeros = 0
        self.low = self.high = 0.0
        self.reach = 0.0
        self.average: tuple[float, float] | None = None
        self.counting = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.counting:
            return x
        values = x.detach().float()
        if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
            values = values.permute(0, 2, 3, 1)  # as they lie in memory, so that nothing is copied
        low, high = (value.item() for value in torch.aminmax(values))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise UserError(f"calibration met a NaN or an infinity in {self.name}; check the model and its input")
        self.low, self.high = min(self.low, low), max(self.high, high)
        old_low, old_high = self.average or (low, high)
        self.average = (old_low + MOMENTUM * (low - old_low), old_high + MOMENTUM * (high - old_high))
        self._widen(max(-low, high))
        values = _spread(values)
        if self.reach > 0:
            # Exact zeros, in sparse activations most of all values, cost nothing at any scale, which always holds zero.
            zeros = values.numel() - int(np.count_nonzero(values.numpy(force=True)))
            self.zeros += zeros
            counts = torch.histc(values, BINS, -self.reach, self.reach).double()
            counts[BINS // 2] -= zeros  # the bin that begins at zero
            self.counts += counts
        else:
            self.zeros += values.numel()
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

    def centers(self) -> Tensor:
        """(BINS,): the middle of each bin."""
        width = 2 * self.reach / BINS
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * width - self.reach


def _spread(values: Tensor) -> Tensor:
    """All values, or about COUNTED of them, at equal distances that do not fall into step with any axis behind the batch."""
    wanted = values.numel() // COUNTED
    if wanted < 2:
        return values
    steps = sorted(range(1, 3 * wanted), key=lambda step: (abs(step - wanted), -step))
    fitting = (step for step in steps if all(math.gcd(step, length) == 1 for length in values.shape[1:]))
    return values.flatten()[:: next(fitting)]
