"""Two layers of low rank against numpy's singular values, against the layer itself, and by hand."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.low_rank.factorize import factorized, matrix_of, rank_for_ratio, rounded, saves, spectrum
from compress.low_rank.modules import LowRankConv2d, LowRankLinear
from compress.measure import count_macs, count_parameters

SHAPES = [(6, 20), (20, 6), (9, 9)]


def singular_values(matrix: Tensor) -> np.ndarray:
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_the_energy_of_the_singular_values_left_out(shape: tuple[int, int]) -> None:
    """Eckart and Young: no matrix of this rank is nearer."""
    matrix = torch.randn(shape)
    values = singular_values(matrix)
    parts = spectrum(matrix)
    assert parts.energies.numpy() == pytest.approx(values**2)
    for rank in range(1, min(shape) + 1):
        reduce, expand = parts.factors(rank)
        assert (reduce.shape, expand.shape) == ((rank, shape[1]), (shape[0], rank))
        left_out = float((values[rank:] ** 2).sum())
        assert float((matrix.double() - expand @ reduce).square().sum()) == pytest.approx(left_out, abs=1e-12)
        assert parts.kept(rank) == pytest.approx(1 - left_out / float((values**2).sum()))


@pytest.mark.parametrize("shape", SHAPES)
def test_both_factors_carry_the_square_root_of_each_singular_value(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape)
    reduce, expand = spectrum(matrix).factors(4)
    expected = np.sqrt(singular_values(matrix)[:4])
    assert reduce.norm(dim=1).numpy() == pytest.approx(expected)
    assert expand.norm(dim=0).numpy() == pytest.approx(expected)


def test_ranks_by_hand() -> None:
    parts = spectrum(torch.diag(torch.tensor([1.0, 3.0, 2.0])))  # energies 9, 4 and 1 of 14
    assert parts.energies.tolist() == [9.0, 4.0, 1.0]
    assert [parts.kept(rank) for rank in (1, 2, 3)] == [9 / 14, 13 / 14, 1.0]
    assert [parts.rank_for(energy) for energy in (0.1, 0.64, 0.65, 0.92, 0.93, 0.999)] == [1, 1, 2, 2, 3, 3]
    # 6 x 20 = 120 weights; a rank costs 26. Half of them are 60, which is two ranks, and 0.65 of them are 78, exactly three.
    assert [rank_for_ratio(6, 20, ratio) for ratio in (0.2, 0.22, 0.5, 0.65, 0.9)] == [0, 1, 2, 3, 4]
    assert [saves(6, 20, rank) for rank in (1, 4, 5)] == [True, True, False]  # 104 weights are fewer than 120, 130 are not
    assert [saves(4, 4, rank) for rank in (1, 2)] == [True, False]  # 16 are not fewer than 16


def test_rounding_by_hand() -> None:
    # 64 x 64: a rank costs 128 of 4096 weights, and 31 is the last that saves any.
    assert [rounded(64, 64, rank, 8, up=True) for rank in (1, 8, 9, 24, 25, 31)] == [8, 8, 16, 24, 25, 31]
    assert [rounded(64, 64, rank, 8, up=False) for rank in (31, 24, 23, 8, 7, 1)] == [24, 24, 16, 8, 7, 1]
    assert [rounded(64, 64, 13, 1, up=up) for up in (True, False)] == [13, 13]


def test_a_weight_of_zeros_has_factors() -> None:
    parts = spectrum(torch.zeros(4, 6))
    assert (parts.rank_for(0.9), parts.kept(1)) == (1, 1.0)
    reduce, expand = parts.factors(2)
    assert torch.equal(expand @ reduce, torch.zeros(4, 6, dtype=torch.float64))


def conv(*sizes: Any, **options: Any) -> tuple[nn.Module, Tensor]:
    return nn.Conv2d(*sizes, **options), torch.randn(2, sizes[0], 9, 11)


LAYERS = {
    "linear": lambda: (nn.Linear(7, 5), torch.randn(2, 7)),
    "linear on tokens, no bias": lambda: (nn.Linear(5, 7, bias=False), torch.randn(2, 4, 5)),
    "3x3": lambda: conv(3, 8, 3, padding=1),
    "more outputs than columns": lambda: conv(1, 16, 3),
    "strided, dilated, not square": lambda: conv(4, 6, (3, 5), stride=(2, 1), padding=(1, 4), dilation=(1, 2), bias=False),
    "padding by name and reflection": lambda: conv(4, 6, 3, padding="same", padding_mode="reflect"),
    "1x1 with a stride": lambda: conv(8, 6, 1, stride=2),
    "float64": lambda: (nn.Linear(7, 5).double(), torch.randn(2, 7).double()),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_full_rank_is_the_layer(name: str) -> None:
    layer, x = LAYERS[name]()
    matrix = matrix_of(layer)
    made = factorized(layer, spectrum(matrix), min(matrix.shape))
    assert made(x).dtype == x.dtype
    assert (made(x) - layer(x)).abs().max() < 1e-6
    assert type(made) is (LowRankConv2d if isinstance(layer, nn.Conv2d) else LowRankLinear)
    assert made.reduce.bias is None and (made.expand.bias is None) == (layer.bias is None)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_lower_rank_is_the_layer_with_the_nearest_weight(name: str) -> None:
    layer, x = LAYERS[name]()
    untouched = copy.deepcopy(layer)
    made = factorized(layer, spectrum(matrix_of(layer)), 2)
    assert torch.equal(layer.weight, untouched.weight)
    u, s, v = np.linalg.svd(matrix_of(layer).double().numpy(), full_matrices=False)
    nearest = torch.from_numpy((u[:, :2] * s[:2]) @ v[:2])
    layer.weight.copy_(nearest.view_as(layer.weight))
    assert (made(x) - layer(x)).abs().max() < 1e-5


def test_the_transposed_linear_layer_of_gpt2() -> None:
    from transformers.pytorch_utils import Conv1D

    layer, x = Conv1D(7, 5), torch.randn(2, 3, 5)
    nn.init.normal_(layer.bias)
    made = factorized(layer, spectrum(matrix_of(layer)), 5)
    assert (made(x) - layer(x)).abs().max() < 1e-6
    assert made.reduce.weight.shape == (5, 5) and made.expand.weight.shape == (7, 5)


def test_weights_and_multiply_adds_by_hand() -> None:
    layer, x = nn.Conv2d(4, 8, 3, stride=2, padding=1), torch.randn(1, 4, 10, 10)  # gives 5 x 5 pixels
    made = factorized(layer, spectrum(matrix_of(layer)), 3)
    assert (count_parameters(layer), count_macs(layer, (x,))) == (8 * 36 + 8, 8 * 36 * 25)
    assert (count_parameters(made), count_macs(made, (x,))) == (3 * (36 + 8) + 8, 3 * (36 + 8) * 25)


def test_frozen_stays_frozen_and_the_mode_stays() -> None:
    layer = nn.Linear(4, 4).eval()
    layer.weight.requires_grad_(False)
    made = factorized(layer, spectrum(matrix_of(layer)), 1)
    assert {name: p.requires_grad for name, p in made.named_parameters()} == {
        "reduce.weight": False,
        "expand.weight": False,
        "expand.bias": True,
    }
    assert not made.training and not made.reduce.training
    assert factorized(layer.train(), spectrum(matrix_of(layer)), 1).expand.training


def test_no_random_number_is_drawn() -> None:
    for layer in (nn.Conv2d(2, 4, 3), nn.Linear(4, 4)):
        state = torch.get_rng_state()
        factorized(layer, spectrum(matrix_of(layer)), 1)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        (LowRankLinear, nn.Conv2d(2, 2, 1), "a Conv2d cannot become a LowRankLinear"),
        (LowRankConv2d, nn.Linear(2, 2), "a Linear cannot become a LowRankConv2d"),
        (LowRankConv2d, nn.Conv2d(2, 2, 1, groups=2), "a grouped Conv2d cannot become a LowRankConv2d"),
    ],
)
def test_a_layer_of_another_kind_is_told(kind: Any, layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError) as error:
        kind.like(layer, 1)
    assert str(error.value) == message
