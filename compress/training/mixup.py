"""Training on mixtures of samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.errors import UserError


@dataclass(frozen=True)
class Mixture:
    """Each sample of a batch with another one of it, by one share for all.

    Attributes:
        share: of the sample itself, in [0, 1].
        order: (N,) the other sample of each.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 2.
    """

    share: float
    order: Tensor

    @classmethod
    def draw(cls, samples: int, alpha: float, device: torch.device) -> "Mixture":
        """A random one, whose share is from Beta(alpha, alpha), alpha above 0."""
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        return cls(share, torch.randperm(samples).to(device))

    def inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The inputs mixed, batch first.

        Raises:
            UserError: they cannot be, such as token ids.
        """
        if not all(x.is_floating_point() for x in inputs):
            raise UserError("mixup mixes images, and these inputs are whole numbers, such as token ids; leave it out")
        return [self._mixed(x) for x in inputs]

    def target(self, target: Tensor, classes: int) -> Tensor:
        """Shares of classes (N, classes) from class indices (N,) or from shares."""
        return self._mixed(F.one_hot(target, classes).float() if target.ndim == 1 else target)

    def _mixed(self, x: Tensor) -> Tensor:
        return x[self.order].lerp(x, self.share)
