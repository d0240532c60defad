"""Which zeros a pattern allows: any, N of every M inputs, or whole blocks. Masks are true where a weight stays.

Scores are matrices (outputs, columns) as `Layer.matrix` gives them, not negative; larger means that the weight matters more.
Of equal scores the first falls.
"""

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.errors import UserError
from compress.sparsity.layers import Layer


@dataclass(frozen=True)
class Blocks:
    """Blocks of rows x columns stay or fall together, scored by their Euclidean norm; 1x1 is unstructured.

    Source: Gray, Radford, Kingma 2017, "GPU Kernels for Block-Sparse Weights"; Narang et al. 2017, "Block-Sparse Recurrent
    Neural Networks".
    """

    rows: int = 1
    columns: int = 1

    def misfit(self, layer: Layer) -> str | None:
        """Why a layer cannot have this pattern; None where it can."""
        if len(layer.matrix()) % self.rows:
            return f"{len(layer.matrix())} outputs are no multiple of {self.rows}"
        return f"{layer.inputs} inputs are no multiple of {self.columns}" if layer.inputs % self.columns else None

    def units(self, scores: Tensor) -> Tensor:
        """The blocks' scores, (outputs / rows, columns / columns of a block)."""
        if self.rows == self.columns == 1:
            return scores
        blocks = scores.unflatten(1, (-1, self.columns)).unflatten(0, (-1, self.rows))
        return torch.linalg.vector_norm(blocks, dim=(1, 3))

    def spread(self, kept: Tensor) -> Tensor:
        """The weights' mask from the blocks'."""
        if self.rows == self.columns == 1:
            return kept
        return kept.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)

    def mask(self, scores: Tensor, sparsity: float, *, by_row: bool = False) -> Tensor:
        """True where a weight stays, in the shape of `scores`.

        Args:
            sparsity: share of the blocks that fall, in [0, 1], rounded to whole blocks.
            by_row: that share of each row of blocks, instead of the whole matrix.
        """
        units = self.units(scores)
        if not by_row:
            return self.spread(largest(units, round(sparsity * units.numel())))
        return self.spread(largest_of_rows(units, round(sparsity * units.shape[1])))


@dataclass(frozen=True)
class NOfM:
    """At most n of every m consecutive inputs stay, for each output and kernel position.

    Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3.1, for 2:4; Zhou et al. 2021,
    "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", for the notation.
    """

    n: int
    m: int

    def misfit(self, layer: Layer) -> str | None:
        """Why a layer cannot have this pattern; None where it can."""
        return f"{layer.inputs} inputs are no multiple of {self.m}" if layer.inputs % self.m else None

    def mask(self, scores: Tensor, sparsity: float, *, by_row: bool = False) -> Tensor:
        """True where a weight stays, in the shape of `scores`.

        Args:
            sparsity: below 1 - n/m, on a schedule's way there, more than n of m stay: the least number that keeps to it.
            by_row: makes no difference, since a group lies within one row.
        """
        stay = max(self.n, math.ceil(self.m * (1 - sparsity) - 1e-9))
        groups = scores.reshape(-1, self.m)
        return largest_of_rows(groups, self.m - stay).view_as(scores)


Pattern = Blocks | NOfM


def parse(text: str, what: str = "pattern") -> Pattern:
    """The pattern of `unstructured`, `2:4` (2 of every 4 stay) or `4x1` (4 outputs x 1 input fall together).

    Raises:
        UserError: another text, or n that is not below m.
    """
    if text == "unstructured":
        return Blocks()
    n_of_m, blocks = re.fullmatch(r"(\d+):(\d+)", text), re.fullmatch(r"(\d+)x(\d+)", text)
    if n_of_m and 0 < int(n_of_m[1]) < int(n_of_m[2]):
        return NOfM(int(n_of_m[1]), int(n_of_m[2]))
    if blocks and int(blocks[1]) and int(blocks[2]):
        return Blocks(int(blocks[1]), int(blocks[2]))
    raise UserError(
        f"{what} must be unstructured, N:M with N below M (2:4 keeps 2 of every 4 inputs), or outputs x inputs of a block "
        f"(4x1), got '{text}'"
    )


def largest(scores: Tensor, fall: int) -> Tensor:
    """True for all but the `fall` smallest, of the whole tensor. Linear in time, where sorting is not."""
    flat = scores.flatten()
    if fall == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(fall).values
    stays = flat > threshold
    equal = (flat == threshold).nonzero()[:, 0]
    stays[equal[fall - int((flat < threshold).sum()) :]] = True
    return stays.view_as(scores)


def largest_of_rows(scores: Tensor, fall: int) -> Tensor:
    """True for all but the `fall` smallest of each row of (rows, columns)."""
    order = scores.argsort(dim=1, stable=True)
    return torch.ones_like(scores, dtype=torch.bool).scatter(1, order[:, :fall], False)
