"""The distillation loss against its formula in numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses import distillation


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(1, keepdims=True)


def by_formula(student: Tensor, teacher: Tensor, target: Tensor, temperature: float, alpha: float) -> float:
    s, t = student.double().numpy(), teacher.double().numpy()
    wanted, got = softmax(t / temperature), softmax(s / temperature)
    divergence = (wanted * (np.log(wanted) - np.log(got))).sum(1).mean()
    entropy = -np.log(softmax(s)[np.arange(len(s)), target.numpy()]).mean()
    return alpha * temperature**2 * divergence + (1 - alpha) * entropy


def batch() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(6, 4) * 3, torch.randn(6, 4) * 3, torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_formula(alpha: float, temperature: float) -> None:
    student, teacher, target = batch()
    found = distillation(student, teacher, target, temperature=temperature, alpha=alpha)
    assert found.shape == ()
    assert found.item() == pytest.approx(by_formula(student, teacher, target, temperature, alpha), rel=1e-5)


def test_without_a_teacher_it_is_cross_entropy() -> None:
    student, teacher, target = batch()
    assert distillation(student, teacher, target, temperature=4.0, alpha=0.0).item() == F.cross_entropy(student, target).item()


def test_a_student_that_equals_its_teacher_loses_nothing() -> None:
    student, _, target = batch()
    assert distillation(student, student, target, temperature=2.0, alpha=1.0).item() == pytest.approx(0, abs=1e-6)


def test_a_doubled_batch_has_the_same_loss() -> None:
    student, teacher, target = batch()
    twice = distillation(student.repeat(2, 1), teacher.repeat(2, 1), target.repeat(2), temperature=3.0, alpha=0.7)
    assert twice.item() == pytest.approx(distillation(student, teacher, target, temperature=3.0, alpha=0.7).item(), rel=1e-6)


def test_the_gradient_does_not_vanish_with_the_temperature() -> None:
    # For large T the gradient of the soft part tends to (s - t) / classes / batch for centred logits: T^2 makes it so.
    student, teacher, target = batch()
    student, teacher = (x - x.mean(1, keepdim=True) for x in (student, teacher))
    for temperature in (100.0, 1000.0):
        logits = student.clone().requires_grad_()
        distillation(logits, teacher, target, temperature=temperature, alpha=1.0).backward()
        assert logits.grad is not None
        assert torch.allclose(logits.grad, (student - teacher) / 4 / 6, atol=0.02)


def test_large_logits_stay_finite() -> None:
    student = torch.tensor([[1000.0, -1000.0]])
    assert distillation(student, -student, torch.tensor([0]), temperature=1.0, alpha=0.5).isfinite()
