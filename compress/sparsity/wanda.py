"""Small weights on quiet inputs go: a magnitude is worth what it is multiplied with.

Source: Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models", section 3, equation 1.
"""

from torch import Tensor

from compress.sparsity.patterns import Pattern


def wanda_scores(matrix: Tensor, norms: Tensor) -> Tensor:
    """|W_ij| * ||X_j||_2, (outputs, columns).

    Args:
        matrix: (outputs, columns).
        norms: (groups, columns) of the inputs; the outputs of a convolution's group meet that group's.
    """
    return matrix.abs() * norms.to(matrix.dtype).repeat_interleave(len(matrix) // len(norms), 0)


def wanda_mask(matrix: Tensor, norms: Tensor, pattern: Pattern, sparsity: float) -> Tensor:
    """True for the weights that stay. Weights are compared within an output, which matters as much as the score does."""
    return pattern.mask(wanda_scores(matrix, norms), sparsity, by_row=True)
