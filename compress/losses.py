"""Loss functions on logits: pure, differentiable, one number out."""

import torch.nn.functional as F
from torch import Tensor


def distillation(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float, alpha: float) -> Tensor:
    """Mean over the batch of alpha * T^2 * KL(teacher || student at temperature T) + (1 - alpha) * cross entropy.

    T^2 keeps the gradient's size independent of the temperature.

    Args:
        student, teacher: logits (batch, classes); no gradient should flow into the teacher's.
        target: class indices (batch,).
        temperature: above 0; larger values spread the teacher's distribution.
        alpha: in [0, 1], the weight of the teacher; 0 is plain cross entropy.

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.
    """
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(student, target)
