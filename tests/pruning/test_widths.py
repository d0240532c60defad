"""How many channels of which layers a ratio leaves, and which ones."""

import copy

import pytest
import torch
from pruning.networks import Plain, marked, removed
from torch import Tensor, nn

from compress.pruning.channels import prune_channels_


@torch.no_grad()
def test_the_channels_of_the_smallest_norm_go() -> None:
    model, x = marked(Plain()), torch.randn(3, 3, 8, 8)
    small = [1, 2, 5, 7, 8, 11, 12, 15]
    model.a.weight[small] *= 0.01
    model.a.bias[small] *= 0.01
    model.b.weight[:, small] *= 0.01  # the norm is that of the group: the readers' weights belong to it
    cut = copy.deepcopy(model)
    prune_channels_(cut, (x,), ratio=0.5)
    assert removed(model, cut, "a") == small


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "left"),
    [
        (32, 0.5, 8, 16),
        (32, 0.3, 8, 24),  # 22.4 is nearer to 24 than to 16
        (32, 0.3, 1, 22),
        (32, 0.3, 2, 22),
        (32, 0.1, 8, 32),  # 28.8 is nearer to 32
        (24, 0.5, 8, 8),  # 12 is half way
        (20, 0.25, 4, 16),  # 15 is nearer to 16
        (20, 0.1, 16, 16),
        (16, 0.75, 8, 8),  # 4, but at least 8
        (64, 0.99, 8, 8),
        (12, 0.5, 8, 8),
        (10, 0.2, 8, 8),
        (8, 0.5, 8, 8),  # no more channels than round_to
        (6, 0.9, 8, 6),
        (6, 0.9, 1, 1),
    ],
)
def test_ratio_and_rounding(width: int, ratio: float, round_to: int, left: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 4, 1))
    changed = prune_channels_(model, (torch.randn(1, 3, 4, 4),), ratio=ratio, round_to=round_to)
    assert model[0].out_channels == model[2].in_channels == left
    assert changed == ({} if left == width else {"0": (width, left)})


@pytest.mark.parametrize("pattern", ["conv1", "conv*", "shortcut.*"])
def test_excluded_layers_keep_their_channels(pattern: str, residual_net: nn.Module, images: Tensor) -> None:
    before = copy.deepcopy(residual_net)
    changed = prune_channels_(residual_net, (images,), ratio=0.5, exclude=(pattern,))
    kept = {"conv1": {"conv1"}, "conv*": {"conv1", "conv2", "shortcut.0"}, "shortcut.*": {"conv2", "shortcut.0"}}[pattern]
    assert set(changed) == {"stem", "conv1", "conv2", "shortcut.0"} - kept  # and what is added to an excluded layer stays
    for name in kept:
        assert residual_net.get_parameter(f"{name}.weight").shape[0] == before.get_parameter(f"{name}.weight").shape[0]


@pytest.mark.parametrize(("width", "groups"), [(16, 8), (32, 8), (16, 4), (8, 8)])
def test_groups_of_a_few_inputs_keep_their_number_and_depthwise_ones_do_not(width: int, groups: int) -> None:
    """With two inputs to a group, half of them leaves one, which is not a depthwise convolution of half as many groups."""
    model = nn.Sequential(
        nn.Conv2d(3, width, 1),
        nn.Conv2d(width, 32, 3, groups=groups),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()
    original, x = copy.deepcopy(model), torch.randn(2, 3, 4, 4)
    changed = prune_channels_(model, (x,), ratio=0.5, round_to=1)
    assert changed == {"0": (width, width // 2), "1": (32, 16), "3": (8, 4)}
    assert model[1].groups == (groups if width > groups else groups // 2)
    assert model(x).shape == original(x).shape
