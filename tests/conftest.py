"""Tiny networks that several tests share; each test draws the same random numbers."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is there: workers share the cores, and waiting threads would spin
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(os, "sched_setaffinity"):  # nor do the processes that a test starts take all cores, as a run does
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(cores)]})

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.measure.latency import time_interleaved

# What is timed counts in the tests, not for how long: hundredths of a second instead of seconds, where they do not say it.
time_interleaved.__kwdefaults__.update(min_runs=3, min_seconds=0.02)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def settled(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics, scales and shifts of its own, as training would; in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                tensor.data.uniform_(low, high)
    return model.eval()


class ResidualNet(nn.Module):
    """Images (batch, 3, any, any) to 5 logits: a stem, a block with a convolution on its shortcut, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.shortcut = nn.Sequential(nn.Conv2d(16, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = self.pool(F.relu(y + self.shortcut(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class TwoInputNet(nn.Module):
    """An image (batch, 3, any, any) and numbers (batch, 4) to 3 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.numbers = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        seen = F.adaptive_avg_pool2d(F.relu(self.conv(image)), 1).flatten(1)
        return self.head(F.relu(seen + self.numbers(numbers)))


class FlatteningNet(nn.Module):
    """Images (batch, 3, 8, 8), of no other size, to 3 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).flatten(1))


@pytest.fixture
def residual_net(seeded: None) -> nn.Module:
    return settled(ResidualNet())


@pytest.fixture
def two_input_net(seeded: None) -> nn.Module:
    return settled(TwoInputNet())


@pytest.fixture
def flattening_net(seeded: None) -> nn.Module:
    return settled(FlatteningNet())


@pytest.fixture
def images(seeded: None) -> Tensor:
    """Eight images for the networks above."""
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
