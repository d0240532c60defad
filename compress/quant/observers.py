"""What values an activation takes, gathered over calibration data in constant memory."""

import torch
from torch import Tensor, nn

from compress.errors import UserError

BINS = 4096
# Weight of the newest batch in the moving average of extremes.
MOMENTUM = 0.1


class HistogramObserver(nn.Module):
    """Passes a tensor through unchanged and keeps a histogram of its values other than zero.

    Memory does not grow with the number of samples: when a value falls outside, neighbouring bins are merged until the
    range holds it.

    Args:
        name: of the tensor, for a message: `the output of 'layer1.conv1'`.

    Attributes:
        counts: (BINS,), of the values other than zero, in equal bins over [-reach, reach].
        zeros: how many values were exactly zero.
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
        low, high = (value.item() for value in torch.aminmax(values))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise UserError(f"calibration met a NaN or an infinity in {self.name}; check the model and its input")
        self.low, self.high = min(self.low, low), max(self.high, high)
        old_low, old_high = self.average or (low, high)
        self.average = (old_low + MOMENTUM * (low - old_low), old_high + MOMENTUM * (high - old_high))
        self._widen(max(-low, high))
        if self.reach > 0:
            # Exact zeros, in sparse activations most of all values, cost nothing at any scale, which always holds zero.
            zeros = values.numel() - int(torch.count_nonzero(values))
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
