"""The table of layer times: which shapes a network has, each measured once, and sums that add up."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from compress.measure.layers import LayerTable, Shape, layer_shapes


class Twice(nn.Module):
    """Images (batch, 3, 8, 8): one convolution used twice, and another of the same shape; then a linear layer on 9 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.shared, self.like = (
            nn.Conv2d(4, 4, (1, 3), groups=2, padding=(0, 1)),
            nn.Conv2d(4, 4, (1, 3), groups=2, padding=(0, 1)),
        )
        self.tokens, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.like(self.shared(self.stem(x))))
        return self.head(self.tokens(x.flatten(2).transpose(1, 2)).mean(1))


STEM = ("conv", 3, 4, 1, (3, 3), (2, 2), (1, 1), (1, 1), (8, 8))
MIDDLE = ("conv", 4, 4, 2, (1, 3), (1, 1), (0, 1), (1, 1), (4, 4))
TOKENS, HEAD = ("linear", 4, 6, 16), ("linear", 6, 2, 1)


def test_shapes_are_counted_as_often_as_they_are_computed_for_a_batch_of_one() -> None:
    model = Twice().train()
    assert layer_shapes(model, (torch.randn(5, 3, 8, 8),)) == {STEM: 1, MIDDLE: 3, TOKENS: 1, HEAD: 1}
    assert not any(module._forward_hooks for module in model.modules())


def test_convolutions_over_one_and_three_axes_are_counted_and_what_cannot_be_timed_is_left_out() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ConvTranspose1d(3, 3, 3), nn.Conv1d(3, 3, 3, padding="same"), nn.PReLU())
    assert layer_shapes(model, (torch.randn(2, 2, 6),)) == {("conv", 2, 3, 1, (3,), (1,), (0,), (1,), (6,)): 1}
    assert layer_shapes(nn.Conv3d(1, 2, 2), (torch.randn(1, 1, 3, 4, 5),)) == {
        ("conv", 1, 2, 1, (2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 1, 1), (3, 4, 5)): 1
    }


class Counting(LayerTable):
    """Layers cost what they have outputs, and it is noted which were asked for."""

    def _measure(self, shape: Shape) -> float:
        asked.append(shape)
        return float(shape[2])


asked: list[Shape] = []


def test_each_shape_is_measured_once_and_the_sum_is_over_all_layers() -> None:
    asked.clear()
    table = Counting()
    shapes = Counter({STEM: 1, MIDDLE: 3, TOKENS: 1, HEAD: 1})
    assert table.total(shapes) == 4 + 3 * 4 + 6 + 2
    assert asked == [STEM, MIDDLE, TOKENS, HEAD]
    assert table.total(shapes) == 24
    wider = ("linear", 6, 7, 1)
    assert table.total(Counter({TOKENS: 2, wider: 1})) == 2 * 6 + 7
    assert asked == [STEM, MIDDLE, TOKENS, HEAD, wider]
    assert table.entries == {STEM: 4, MIDDLE: 4, TOKENS: 6, HEAD: 2, wider: 7}


def test_what_was_measured_elsewhere_is_believed() -> None:
    asked.clear()
    assert Counting(entries={HEAD: 0.5}).total(Counter({HEAD: 4})) == 2
    assert asked == []


@pytest.mark.parametrize(
    "shape",
    [
        STEM,
        MIDDLE,
        TOKENS,
        HEAD,
        ("conv", 2, 3, 1, (3,), (1,), (0,), (2,), (8,)),
        ("conv", 1, 2, 1, (2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 1, 1), (3, 4, 5)),
    ],
)
def test_a_layer_of_each_kind_can_be_timed(shape: Shape) -> None:
    assert 0 < LayerTable().total(Counter({shape: 1})) < 1000


def test_more_work_takes_longer() -> None:
    table = LayerTable()
    small, large = ("linear", 16, 16, 1), ("linear", 1024, 1024, 64)
    assert table.total(Counter({large: 1})) > 2 * table.total(Counter({small: 1}))
