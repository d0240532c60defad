"""Rows times a weight are what the layer gives at their positions."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.quant.parameters import LAYERS, groups_of
from compress.quant.ptq import folded
from compress.quant.rows import sample_rows

LAYER: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "tokens": (nn.Linear(6, 4), (2, 5, 6)),
    "conv": (nn.Conv2d(3, 4, 3), (2, 3, 7, 9)),
    "one argument": (nn.Conv2d(3, 4, 1, bias=False), (2, 3, 7, 9)),
    "stride": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(2, 3)), (2, 3, 7, 9)),
    "same": (nn.Conv2d(3, 4, (4, 3), padding="same"), (2, 3, 7, 9)),
    "valid": (nn.Conv2d(3, 4, 3, padding="valid", stride=2), (2, 3, 7, 9)),
    "groups": (nn.Conv2d(6, 8, 3, padding=1, groups=2), (2, 6, 7, 9)),
    "depthwise": (nn.Conv2d(6, 12, 3, stride=2, groups=6), (2, 6, 7, 9)),
    "conv1d": (nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2), (2, 3, 11)),
    "conv1d same": (nn.Conv1d(4, 4, 4, padding="same", groups=2), (2, 4, 11)),
}


def node_of(model: nn.Module, x: Tensor) -> Any:
    return next(node for node in folded(nn.Sequential(model), (x,)).graph.nodes if node.target in LAYERS)


@pytest.mark.parametrize("name", LAYER)
@pytest.mark.parametrize("count", [7, 10**6])
def test_rows_times_the_weight_are_the_outputs(name: str, count: int) -> None:
    layer, shape = LAYER[name]
    x = torch.randn(shape)
    y, node = layer(x).detach(), node_of(layer, x)
    rows, outputs = sample_rows(node, layer.weight.shape[2:], x, y, count, torch.Generator().manual_seed(0))
    channels = len(layer.weight)
    assert rows.shape[1] == min(count, y.numel() // channels)
    weight = layer.weight.detach().view(groups_of(node), -1, rows.shape[2])
    bias = layer.bias.detach() if layer.bias is not None else torch.zeros(channels)
    assert torch.allclose(rows @ weight.transpose(1, 2) + bias.view(len(rows), 1, -1), outputs, atol=1e-5)
    if count > 7:  # all positions, in order
        axis = -1 if isinstance(layer, nn.Linear) else 1
        assert torch.equal(outputs.transpose(0, 1).reshape(-1, channels), y.movedim(axis, -1).reshape(-1, channels))


def test_positions_are_drawn_from_everywhere() -> None:
    layer, x = nn.Conv2d(1, 1, 1), torch.arange(4 * 5 * 6.0).view(4, 1, 5, 6)
    rows, _ = sample_rows(node_of(layer, x), (1, 1), x, x, 100, torch.Generator().manual_seed(0))
    assert len(set(rows.flatten().tolist())) > 50
    assert rows.max() > 115
    assert rows.min() < 5
