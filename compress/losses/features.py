"""Losses on feature maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses.checks import check_fit


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of the student's features, over the mean square of the teacher's.

    The quotient is the share of the teacher's energy that the student misses: 0 where they agree, 1 for a student that is zero.
    Features of one layer may be a hundred times those of another, so that the paper's plain squares want a weight for each
    layer; with the quotient one weight serves all. Where the teacher is zero throughout, it is the plain mean squared error.

    Args:
        student, teacher: (N, ...), of one shape; where widths differ, the student's behind a learned projection.

    Raises:
        UserError: shapes that differ.

    Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", section 2.2, equation 3, divided as said above.
    """
    check_fit(student.shape == teacher.shape, "hint", student, teacher, "both must be of one shape; project the student's")
    energy = teacher.square().mean()
    return F.mse_loss(student, teacher) / torch.where(energy > 0, energy, 1)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance between the two maps of where the activations are large; mean over the batch, in [0, 2].

    A map is the mean over channels of the squared activations, scaled to Euclidean length 1 for each sample, so that neither
    the number of channels nor their scale counts. The distance is squared, where the paper writes the plain norm, whose
    gradient does not get smaller as the maps meet.

    Args:
        student, teacher: (N, C, H, W); C may differ. Where H and W differ, the student's map is averaged over the bins of
            adaptive pooling down to the teacher's size, or repeated up to it.

    Raises:
        UserError: not four axes each, or another N.

    Source: Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", section 3.1, equation 2 with p = 2.
    """
    fits = student.ndim == teacher.ndim == 4 and len(student) == len(teacher)
    check_fit(fits, "attention_transfer", student, teacher, "both must be (N, C, H, W) with the same N")
    size = teacher.shape[2], teacher.shape[3]
    return (_attention_map(student, size) - _attention_map(teacher, size)).square().sum(dim=1).mean()


def _attention_map(features: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) to maps (N, height * width) of length 1, or of zeros where the features are zero."""
    energy = features.square().mean(dim=1, keepdim=True)
    return F.normalize(F.adaptive_avg_pool2d(energy, size).flatten(1), dim=1)
