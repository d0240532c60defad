"""Multiply-accumulates and parameters of tiny networks, counted by hand."""

import pytest
import torch
from torch import nn

from compress.measure import count_macs, count_nonzero, count_parameters

IMAGE = torch.randn(1, 4, 8, 8)


@pytest.mark.parametrize(
    ("model", "macs", "parameters"),
    [
        # out channels * in channels / groups * kernel * output pixels
        (nn.Conv2d(4, 6, 3), 6 * 4 * 9 * 36, 6 * 4 * 9 + 6),
        (nn.Conv2d(4, 6, 3, bias=False), 6 * 4 * 9 * 36, 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3, padding=1), 6 * 4 * 9 * 64, 6 * 4 * 9 + 6),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), 6 * 4 * 9 * 16, 6 * 4 * 9 + 6),
        (nn.Conv2d(4, 6, (1, 3), dilation=(1, 2)), 6 * 4 * 3 * 32, 6 * 4 * 3 + 6),
        (nn.Conv2d(4, 6, 3, groups=2), 6 * 2 * 9 * 36, 6 * 2 * 9 + 6),
        (nn.Conv2d(4, 4, 3, groups=4), 4 * 1 * 9 * 36, 4 * 9 + 4),
        (nn.Conv2d(4, 8, 3, groups=4), 8 * 1 * 9 * 36, 8 * 9 + 8),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), 64 * 4 * 6 * 4, 6 * 4 * 4 + 6),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), 256 * 10, 2560 + 10),
        (nn.Linear(8, 3), 4 * 8 * 8 * 3, 24 + 3),  # one product for each of 4 * 8 rows
        # Pooling, normalization and activations are not counted.
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2)), 0, 8),
        (
            nn.Sequential(
                nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
            ),
            6 * 4 * 9 * 36 + 6 * 2,
            6 * 4 * 9 + 6 + 12 + 12 + 2,
        ),
    ],
)
def test_macs_and_parameters_by_hand(model: nn.Module, macs: int, parameters: int) -> None:
    assert count_macs(model, (IMAGE,)) == macs
    assert count_parameters(model) == parameters


def test_macs_are_of_one_sample() -> None:
    assert count_macs(nn.Conv2d(4, 6, 3), (IMAGE.repeat(5, 1, 1, 1),)) == 6 * 4 * 9 * 36


def test_macs_are_counted_in_eval_mode_without_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    before = model[1].running_mean.clone()
    count_macs(model.train(), (IMAGE,))
    assert torch.equal(model[1].running_mean, before)
    assert model[0].weight.grad is None


def test_tied_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert count_parameters(model) == count_nonzero(model) == 9


def test_zeros_are_counted_exactly() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        model[0].weight.fill_(1e-30)
        model[0].weight[0] = 0
        model[0].bias.copy_(torch.tensor([0.0, -0.0, 1.0]))
    assert count_parameters(model) == 12 + 3 + 6
    assert count_nonzero(model) == 8 + 1 + 3  # the norm's shifts start at zero
