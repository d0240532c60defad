"""Small weights go: the baseline that every other method has to beat.

Source: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.sparsity.patterns import Blocks, Pattern, largest


def magnitude_mask(matrix: Tensor, pattern: Pattern, sparsity: float) -> Tensor:
    """True for the weights that stay, of (outputs, columns), where each layer loses the same share."""
    return pattern.mask(matrix.abs(), sparsity)


def global_magnitude_masks(matrices: Sequence[Tensor], blocks: Blocks, sparsity: float) -> list[Tensor]:
    """True for the weights that stay, where one threshold decides for all layers; of equal ones the earlier layer's fall."""
    units = [blocks.units(matrix.abs()) for matrix in matrices]
    together = torch.cat([unit.flatten() for unit in units])
    kept = largest(together, round(sparsity * len(together))).split([unit.numel() for unit in units])
    return [blocks.spread(part.view_as(unit)) for part, unit in zip(kept, units, strict=True)]
