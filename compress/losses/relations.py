"""Losses on how the samples of a batch lie to each other: the student's space may have another width than the teacher's.

Samples that lie nearer than `NEAR` are taken for one: the direction from one to the other is rounding noise, and its gradient
grows without bound.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses.checks import check_fit

# Of the root mean square length of the batch's embeddings; float32 networks repeat themselves to about 1e-6.
NEAR = 1e-5


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs of samples of the Huber loss between their two distances, each in units of its own batch's mean distance.

    A batch of one or two gives no gradient: there is nothing to compare with. Rotations, shifts and scales of the embeddings do
    not count.

    Args:
        student, teacher: (N, ...), flattened to one vector for each sample; lengths may differ.

    Raises:
        UserError: fewer than two axes, or another N.

    Source: Park et al. 2019, "Relational Knowledge Distillation", section 3.2, distance-wise loss.
    """
    _check("relational_distance", student, teacher)
    n = len(student)
    total = F.huber_loss(_distances(_products(student)), _distances(_products(teacher)), reduction="sum")
    return (total / max(1, n * (n - 1))).to(student.dtype)


def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over triplets of samples of the Huber loss between the cosines of their two angles.

    Zero for a batch of one or two, which holds no triplet. Rotations, shifts and scales of the embeddings do not count. Takes
    memory in N^3: about 0.1 GB for 128 samples, 0.5 GB for 256.

    Args:
        student, teacher: (N, ...), flattened to one vector for each sample; lengths may differ.

    Raises:
        UserError: fewer than two axes, or another N.

    Source: Park et al. 2019, "Relational Knowledge Distillation", section 3.2, angle-wise loss.
    """
    _check("relational_angle", student, teacher)
    n = len(student)
    total = F.huber_loss(_cosines(_products(student)), _cosines(_products(teacher)), reduction="sum")
    return (total / max(1, n * (n - 1) * (n - 2) // 2)).to(student.dtype)


def _check(loss: str, student: Tensor, teacher: Tensor) -> None:
    fits = min(student.ndim, teacher.ndim) >= 2 and len(student) == len(teacher)
    check_fit(fits, loss, student, teacher, "both must be (N, ...) with the same N")


def _products(embeddings: Tensor) -> Tensor:
    """Scalar products (N, N) of all pairs; float64, as distances are small differences of them."""
    flat = embeddings.flatten(1).double()
    return flat @ flat.T


def _squared_distances(products: Tensor) -> tuple[Tensor, Tensor]:
    """(N, N), with 1 in place of those between samples taken for one, whose root has no gradient; and whether they are two."""
    squares = products.diagonal()
    apart = squares[:, None] + squares[None, :] - 2 * products
    are_two = apart > NEAR**2 * squares.mean()
    return torch.where(are_two, apart, 1), are_two


def _distances(products: Tensor) -> Tensor:
    """(N, N), in units of the mean over all pairs."""
    squares, are_two = _squared_distances(products)
    distances = torch.where(are_two, squares.sqrt(), 0)
    mean = distances.sum() / max(1, len(products) * (len(products) - 1))
    return distances / torch.where(mean > 0, mean, 1)


def _cosines(products: Tensor) -> Tensor:
    """The cosine at each sample between each pair of others, (N, N (N - 1) / 2); zero where two of the three are one."""
    n = len(products)
    first, second = torch.triu_indices(n, n, offset=1, device=products.device)
    squares, are_two = _squared_distances(products)
    inverse = torch.where(are_two, squares.rsqrt(), 0)
    # <a - v, b - v> = <a, b> - <a, v> - <b, v> + <v, v>; index_select, whose gradient is faster than that of [:, first]
    within = products[first, second] - products.index_select(1, first) - products.index_select(1, second)
    within = within + products.diagonal()[:, None]
    return within * inverse.index_select(1, first) * inverse.index_select(1, second)
