"""Widths and zeros of each layer, counted a second time by hand."""

import torch
from torch import nn

from compress.low_rank.modules import LowRankLinear
from compress.report.layers import layer_rows


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 4, 1))
        self.mix: nn.Module = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)


def test_a_row_says_what_became_of_a_layer() -> None:
    before, after = Net(8), Net(4)
    after.mix = LowRankLinear(4, 6, 2)
    with torch.no_grad():
        for layer in (*after.body, after.mix.reduce, after.mix.expand, after.head):
            layer.weight.fill_(1)
        after.body[2].weight[0, :3] = 0  # 3 of 4 x 4
        after.head.weight[:, 1] = 0  # 2 of 2 x 6
    rows = [tuple(row.values()) for row in layer_rows(before, after)]
    assert list(layer_rows(before, after)[0]) == ["name", "width_before", "width_after", "sparsity"]
    assert rows == [
        ("body.0", 8, 4, 0.0),
        ("body.2", 4, 4, 0.1875),
        ("mix", 6, None, None),
        ("mix.reduce", None, 2, 0.0),
        ("mix.expand", None, 6, 0.0),
        ("head", 2, 2, 0.166667),
    ]


def test_layers_of_other_names_come_last() -> None:
    assert [row["name"] for row in layer_rows(nn.Sequential(nn.Linear(2, 2)), nn.ModuleDict({"b": nn.Linear(2, 2)}))] == [
        "0",
        "b",
    ]
