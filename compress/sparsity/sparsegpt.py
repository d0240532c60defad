"""Weights go one column at a time, and those behind make up for the error as the inputs' correlations allow.

Source: Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", algorithm 1.
"""

import torch
from torch import Tensor

from compress.sparsity.patterns import NOfM, Pattern

# Columns whose mask is chosen at once, and whose corrections of all later columns are applied at once: the paper's B and Bs.
COLUMNS = 128
DAMPING = 0.01


def inverse_factor(products: Tensor, damping: float = DAMPING) -> Tensor:
    """The upper triangular U with (H + damping * mean(diag H) * I)^-1 = U^T U, in float64.

    Row j of U holds how the columns from j on answer to a change in column j, those before it being settled.

    Args:
        products: H, (groups, columns, columns), finite, symmetric, not negative; all zero counts as the identity.
        damping: raised tenfold until the factor exists.
    """
    h = products.double()
    mean = h.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    failed = torch.ones(())
    while failed.any():
        # With the columns in reverse order, H is R R^T for an upper triangular R, and U is the inverse of R: one
        # factorization instead of the two, and the full inverse between them, that the definition asks for.
        turned = h.flip(1, 2)
        turned.diagonal(dim1=1, dim2=2).add_(torch.where(mean == 0, 1, damping * mean))
        lower, failed = torch.linalg.cholesky_ex(turned)
        damping *= 10
    identity = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    return torch.linalg.solve_triangular(lower.flip(1, 2), identity.expand_as(h), upper=True)


def sparsegpt(matrix: Tensor, products: Tensor, pattern: Pattern, sparsity: float) -> Tensor:
    """The sparse weights, (outputs, columns), with what stays adjusted to keep the layer's outputs on its inputs.

    Args:
        matrix: (outputs, columns) as `Layer.matrix` gives it; the outputs of group g are the g-th part of the rows.
        products: X^T X of the inputs, (groups, columns, columns).
        pattern: unstructured, or N:M. The share of `sparsity` falls in every 128 columns.
    """
    upper = inverse_factor(products).to(matrix.dtype)
    groups, columns = upper.shape[:2]
    # (groups, columns, outputs of a group): what is worked on one by one lies together in memory.
    left = matrix.detach().unflatten(0, (groups, -1)).transpose(1, 2).clone(memory_format=torch.contiguous_format)
    at_once = pattern.m if isinstance(pattern, NOfM) else COLUMNS
    step = max(at_once, COLUMNS // at_once * at_once)
    for start in range(0, columns, step):
        part = left[:, start : start + step]  # a view: what happens to it happens to `left`
        factor = upper[:, start : start + step, start : start + step]
        diagonal = factor.diagonal(dim1=1, dim2=2)[..., None]
        errors = torch.zeros_like(part)
        for column in range(part.shape[1]):
            if column % at_once == 0:
                here = slice(column, column + at_once)
                scores = (part[:, here] / diagonal[:, here]).square().transpose(1, 2)
                falls = ~pattern.mask(scores.flatten(0, 1), sparsity).view_as(scores).transpose(1, 2)
            fallen = falls[:, column % at_once]
            errors[:, column] = part[:, column] * fallen / diagonal[:, column]
            part[:, column:].baddbmm_(factor[:, column, column:, None], errors[:, column, None], alpha=-1)
            part[:, column].masked_fill_(fallen, 0)
        left[:, start + step :].baddbmm_(upper[:, start : start + step, start + step :].transpose(1, 2), errors, alpha=-1)
    return left.transpose(1, 2).flatten(0, 1)
