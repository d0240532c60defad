"""A weight as the product of two thin matrices, as near as two of that width can come."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.layers import is_transposed_linear
from compress.low_rank.modules import LowRankConv2d, LowRankLinear


@dataclass(frozen=True)
class Spectrum:
    """What a matrix W of (out, columns) is made of, the strongest part first.

    Attributes:
        matrix: W, float64.
        energies: squared singular values, (min(out, columns),), float64, falling; together the sum of W's squares.
        vectors: the singular vectors of the shorter side, as columns, in the same order.
    """

    matrix: Tensor
    energies: Tensor
    vectors: Tensor

    def kept(self, rank: int) -> float:
        """The share of the energy that the first `rank` parts hold, in [0, 1]; 1 for a matrix of zeros."""
        total = float(self.energies.sum())
        return float(self.energies[:rank].sum()) / total if total > 0 else 1.0

    def rank_for(self, energy: float) -> int:
        """The least rank, at least 1, that keeps this share of the energy, in (0, 1)."""
        kept = self.energies.cumsum(0)
        return min(int((kept < energy * kept[-1]).sum()) + 1, len(kept))

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """(rank, columns) and (out, rank), whose product, second times first, is the nearest matrix of this rank to W.

        The squared distance is the sum of the other energies. Each part's square root goes to either side: the numbers
        between the two layers then differ least in size where they share one scale as integers.

        Source: Eckart and Young 1936, "The approximation of one matrix by another of lower rank".
        """
        out, columns = self.matrix.shape
        chosen = self.vectors[:, :rank]
        # W projected on the chosen directions. Nothing is divided by a singular value, so that tiny ones lose no digits.
        reduce, expand = (chosen.T @ self.matrix, chosen) if out <= columns else (chosen.T, self.matrix @ chosen)
        strength = (reduce if out <= columns else expand).norm(dim=1 if out <= columns else 0)
        half = torch.where(strength > 0, strength, 1.0).sqrt()
        if out <= columns:
            return reduce / half[:, None], expand * half
        return reduce * half[:, None], expand / half


def spectrum(matrix: Tensor) -> Spectrum:
    """The spectrum of a matrix (out, columns), computed in float64.

    By way of the smaller of W W^T and W^T W, which is many times faster than a singular value decomposition. What that costs
    in digits, float64 has over float32.
    """
    matrix = matrix.detach().double()
    out, columns = matrix.shape
    energies, vectors = torch.linalg.eigh(matrix @ matrix.T if out <= columns else matrix.T @ matrix)
    return Spectrum(matrix, energies.flip(0).clamp_min(0), vectors.flip(1))


def saves(out: int, columns: int, rank: int) -> bool:
    """Whether two layers of this rank have fewer weights than one; multiply-adds go with the weights."""
    return rank * (out + columns) < out * columns


def rank_for_ratio(out: int, columns: int, ratio: float) -> int:
    """The largest rank whose two layers have at most this share of the weights; 0 where not even rank 1 does."""
    return math.floor(ratio * out * columns / (out + columns))


def rounded(out: int, columns: int, rank: int, round_to: int, *, up: bool) -> int:
    """The next multiple of `round_to`, up or down; the rank itself where that is no rank, or one that saves nothing."""
    multiple = (math.ceil(rank / round_to) if up else rank // round_to) * round_to
    return multiple if multiple > 0 and saves(out, columns, multiple) else rank


def matrix_of(layer: nn.Module) -> Tensor:
    """A layer's weight as (out, columns): the columns of a convolution are its inputs times its kernel's positions."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().t() if is_transposed_linear(layer) else weight.detach().flatten(1)


@torch.no_grad()
def factorized(layer: nn.Module, parts: Spectrum, rank: int) -> LowRankLinear | LowRankConv2d:
    """The module that stands for `layer` with a weight of this rank; the layer itself is not changed.

    Args:
        layer: `nn.Linear`, an ungrouped `nn.Conv2d`, or transformers' `Conv1D`.
        parts: the spectrum of `matrix_of(layer)`.
        rank: from 1 to min(out, columns). The latter gives the layer's own function.

    Raises:
        ValueError: the layer is of another kind.
    """
    kind = LowRankConv2d if isinstance(layer, nn.Conv2d) else LowRankLinear
    made = kind.like(layer, rank)
    for factor, values in zip((made.reduce, made.expand), parts.factors(rank), strict=True):
        assert isinstance(factor.weight, nn.Parameter) and isinstance(layer.weight, nn.Parameter)
        factor.weight.copy_(values.view_as(factor.weight))
        factor.weight.requires_grad_(layer.weight.requires_grad)
    if isinstance(layer.bias, nn.Parameter):
        assert isinstance(made.expand.bias, nn.Parameter)
        made.expand.bias.copy_(layer.bias)
        made.expand.bias.requires_grad_(layer.bias.requires_grad)
    return made.train(layer.training)
