"""Losses on logits of shape (N, classes)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses.checks import check_fit, check_target, check_temperature

ONE_SHAPE = "both must be (N, classes) with the same classes"


def distillation(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float, alpha: float) -> Tensor:
    """Mean over the batch of alpha * `soft_targets` + (1 - alpha) * cross entropy with the labels.

    Args:
        student, teacher: logits (N, classes).
        target: class indices (N,).
        temperature: above 0; larger values spread the teacher's distribution.
        alpha: in [0, 1], the weight of the teacher; 0 is plain cross entropy.

    Raises:
        UserError: see `soft_targets`.

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.
    """
    soft = soft_targets(student, teacher, temperature=temperature)
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, target)


def soft_targets(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Mean over the batch of T^2 * KL(teacher || student), both distributions taken at temperature T.

    T^2 keeps the gradient's size independent of the temperature.

    Args:
        student, teacher: logits (N, classes).
        temperature: above 0; larger values spread the teacher's distribution.

    Raises:
        UserError: shapes that differ or have not two axes; a temperature of 0 or less.

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2, without its second term.
    """
    check_fit(student.ndim == 2 and student.shape == teacher.shape, "soft_targets", student, teacher, ONE_SHAPE)
    check_temperature("soft_targets", temperature)
    return temperature**2 * _divergence(student / temperature, teacher / temperature)


def decoupled(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float, alpha: float, beta: float) -> Tensor:
    """Mean over the batch of T^2 * (alpha * TCKD + beta * NCKD): `soft_targets` in two parts with weights of their own.

    TCKD is the divergence of (p, 1 - p), where p is the probability of the labelled class; NCKD that of the distributions over
    the other classes alone. `soft_targets` is TCKD + (1 - p of the teacher) * NCKD: what the teacher knows of the other classes
    counts least there where it is surest. Both at temperature T.

    Args:
        student, teacher: logits (N, classes), of two classes or more.
        target: class indices (N,).
        temperature: above 0; 4 in the paper's experiments.
        alpha: 0 or more, the weight of TCKD; 1 in the paper's experiments.
        beta: 0 or more, the weight of NCKD; the paper takes more for a teacher that is surer.

    Raises:
        UserError: shapes that differ or have not two axes; fewer than two classes; targets that are not one index for each
            sample; a temperature of 0 or less.

    Source: Zhao et al. 2022, "Decoupled Knowledge Distillation", section 3.
    """
    fits = student.ndim == 2 and student.shape == teacher.shape and student.shape[1] > 1
    check_fit(fits, "decoupled", student, teacher, ONE_SHAPE + ", of which there are two or more")
    check_target("decoupled", student, target)
    check_temperature("decoupled", temperature)
    student_pair, student_others = _target_and_others(student / temperature, target)
    teacher_pair, teacher_others = _target_and_others(teacher / temperature, target)
    split = alpha * _divergence(student_pair, teacher_pair) + beta * _divergence(student_others, teacher_others)
    return temperature**2 * split


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of logits (N, classes), mean over N."""
    return F.kl_div(F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1), reduction="batchmean", log_target=True)


def _target_and_others(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of "the target, or any other class" (N, 2), and those of the other classes alone (N, classes - 1)."""
    is_target = F.one_hot(target, logits.shape[1]).bool()
    others = logits[~is_target].view(len(logits), -1)
    return torch.stack([logits[is_target], others.logsumexp(dim=1)], dim=1), others
