"""A residual network and labelled images for it, which criteria are tried on."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Images (batch, 3, 6, 6) to 3 logits; what `a` makes is added to what `b` makes of it, so that both go together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        return self.head(F.relu(x + self.b(x)).mean((2, 3)))


@pytest.fixture
def residual() -> nn.Module:
    model = Residual().eval()
    with torch.no_grad():
        for tensor in (model.norm.weight, model.norm.running_var):
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(4, 3, 6, 6), torch.randint(0, 3, (4,))) for _ in range(3)]
