"""Masks against those computed by hand."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.sparsity.layers import Layer
from compress.sparsity.magnitude import global_magnitude_masks, magnitude_mask
from compress.sparsity.patterns import Blocks, NOfM, parse


def bits(mask: torch.Tensor) -> list[str]:
    return ["".join("1" if kept else "." for kept in row) for row in mask.tolist()]


MATRIX = torch.tensor([[4.0, -1.0, 3.0, 2.0], [-8.0, 7.0, 5.0, -6.0]])


@pytest.mark.parametrize(
    ("sparsity", "by_row", "wanted"),
    [
        (0.25, False, ["1.1.", "1111"]),
        (0.5, False, ["....", "1111"]),
        (0.5, True, ["1.1.", "11.."]),
        (0.25, True, ["1.11", "11.1"]),
        (0.1, False, ["1.11", "1111"]),  # 0.8 weights are one
        (0.05, False, ["1111", "1111"]),
        (1.0, False, ["....", "...."]),
    ],
)
def test_the_smallest_fall(sparsity: float, by_row: bool, wanted: list[str]) -> None:
    assert bits(Blocks().mask(MATRIX.abs(), sparsity, by_row=by_row)) == wanted


def test_of_equal_ones_the_first_fall() -> None:
    scores = torch.tensor([[2.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 3.0]])
    assert bits(Blocks().mask(scores, 0.5)) == ["1...", "1.11"]
    assert bits(Blocks().mask(scores, 0.5, by_row=True)) == ["1..1", "..11"]


def test_blocks_fall_by_their_norm() -> None:
    # Norms of the blocks 2x1: 5, 2.8, 1, 6; of the blocks 1x2: 3.6, 1, 4.5, 6.
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [4.0, 2.0, 0.0, 6.0]])
    assert bits(Blocks(2, 1).mask(scores, 0.5)) == ["1..1", "1..1"]
    assert bits(Blocks(1, 2).mask(scores, 0.25)) == ["11..", "1111"]
    # A norm, not a sum: 3 + 3 is more than 5 + 0, but its norm is less.
    assert bits(Blocks(2, 1).mask(torch.tensor([[3.0, 5.0], [3.0, 0.0]]), 0.5)) == [".1", ".1"]


def test_blocks_are_compared_within_their_rows_where_asked() -> None:
    scores = torch.tensor([[1.0, 2.0], [1.0, 2.0], [8.0, 9.0], [8.0, 9.0]])
    assert bits(Blocks(2, 1).mask(scores, 0.5)) == ["..", "..", "11", "11"]
    assert bits(Blocks(2, 1).mask(scores, 0.5, by_row=True)) == [".1", ".1", ".1", ".1"]


@pytest.mark.parametrize(
    ("n", "m", "wanted"),
    [
        (2, 4, ["1.1.1..1", "11....11"]),
        (1, 4, ["1......1", ".1.....1"]),
        (1, 2, ["1.1.1..1", ".11.1..1"]),
        (3, 8, ["1...1..1", ".1....11"]),
    ],
)
def test_n_of_every_m_stay(n: int, m: int, wanted: list[str]) -> None:
    scores = torch.tensor([[9.0, 1, 4, 2, 5, 0, 3, 8], [6, 7, 5, 4, 3, 1, 8, 9]])
    assert bits(NOfM(n, m).mask(scores, 1 - n / m)) == wanted


def test_the_pattern_holds_in_every_group_of_a_convolution() -> None:
    conv = nn.Conv2d(8, 6, 3)
    layer = Layer("conv", conv)
    layer.write_(layer.matrix() * NOfM(2, 4).mask(layer.matrix().abs(), 0.5))
    groups = conv.weight.detach().unflatten(1, (2, 4))  # (outputs, groups, 4 input channels, 3, 3)
    assert ((groups != 0).sum(2) == 2).all()
    kept, dropped = groups.abs().topk(2, dim=2).values, groups.abs().topk(4, dim=2).values[:, :, 2:]
    assert (kept > 0).all()
    assert (dropped == 0).all()


@pytest.mark.parametrize(("sparsity", "stay"), [(0.0, 4), (0.2, 4), (0.25, 3), (0.3, 3), (0.5, 2), (0.75, 2), (1.0, 2)])
def test_on_a_schedules_way_more_than_n_stay(sparsity: float, stay: int) -> None:
    assert NOfM(2, 4).mask(torch.rand(3, 8), sparsity).sum(1).tolist() == [2 * stay] * 3


def test_magnitude_per_layer_and_over_all() -> None:
    small, large = torch.tensor([[0.1, -0.2], [0.3, -0.4]]), torch.tensor([[10.0, -20.0, 0.25]])
    assert bits(magnitude_mask(small, Blocks(), 0.5)) == ["..", "11"]
    assert bits(magnitude_mask(-large, NOfM(1, 3), 2 / 3)) == [".1."]
    first, second = global_magnitude_masks([small, large], Blocks(), 3 / 7)
    assert (bits(first), bits(second)) == (["..", "11"], ["11."])
    first, second = global_magnitude_masks([small, large[:, :2].repeat(2, 1)], Blocks(2, 1), 0.5)
    assert (bits(first), bits(second)) == (["..", ".."], ["11", "11"])


def test_what_a_pattern_does_not_divide() -> None:
    conv, depthwise = Layer("a", nn.Conv2d(6, 10, 3)), Layer("b", nn.Conv2d(8, 8, 3, groups=8))
    assert NOfM(2, 4).misfit(conv) == "6 inputs are no multiple of 4"
    assert NOfM(1, 3).misfit(conv) is None
    assert NOfM(2, 4).misfit(depthwise) == "1 inputs are no multiple of 4"
    assert Blocks(4, 1).misfit(conv) == "10 outputs are no multiple of 4"
    assert Blocks(5, 4).misfit(conv) == "6 inputs are no multiple of 4"
    assert Blocks(8, 1).misfit(depthwise) is None
    assert Blocks().misfit(conv) is None


def test_patterns_by_name() -> None:
    assert parse("unstructured") == Blocks(1, 1)
    assert parse("2:4") == NOfM(2, 4)
    assert parse("16x2") == Blocks(16, 2)


@pytest.mark.parametrize("text", ["4:2", "4:4", "0:4", "2:", "0x1", "4x", "x", "blocks", "2:4 "])
def test_other_patterns_are_told(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text, "prune_weights: pattern")
    assert str(error.value) == (
        "prune_weights: pattern must be unstructured, N:M with N below M (2:4 keeps 2 of every 4 inputs), or outputs x inputs of a "
        f"block (4x1), got '{text}'"
    )
