"""Losses on logits against their formulas in numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.errors import UserError
from compress.losses import decoupled, distillation, soft_targets


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)


def divergence(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(sum(w * np.log(w / g) for w, g in zip(wanted, got, strict=True)))


def by_formula(student: Tensor, teacher: Tensor, target: Tensor, temperature: float, alpha: float) -> float:
    s, t = student.double().numpy(), teacher.double().numpy()
    soft = np.mean([divergence(*pair) for pair in zip(softmax(t / temperature), softmax(s / temperature), strict=True)])
    entropy = -np.log(softmax(s)[np.arange(len(s)), target.numpy()]).mean()
    return alpha * temperature**2 * soft + (1 - alpha) * entropy


def decoupled_by_formula(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, alpha: float, beta: float
) -> float:
    total = 0.0
    for s, t, label in zip(student.double().numpy(), teacher.double().numpy(), target.tolist(), strict=True):
        p_s, p_t = softmax(s / temperature), softmax(t / temperature)
        pair = [np.array([p[label], 1 - p[label]]) for p in (p_t, p_s)]
        others = [np.delete(p, label) / (1 - p[label]) for p in (p_t, p_s)]
        total += alpha * divergence(*pair) + beta * divergence(*others)
    return temperature**2 * total / len(target)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(6, 4) * 3, torch.randn(6, 4) * 3, torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_formula(alpha: float, temperature: float) -> None:
    student, teacher, target = batch()
    found = distillation(student, teacher, target, temperature=temperature, alpha=alpha)
    assert found.shape == ()
    assert found.item() == pytest.approx(by_formula(student, teacher, target, temperature, alpha), rel=1e-5)


def test_without_labels_it_is_the_soft_targets() -> None:
    student, teacher, target = batch()
    found = soft_targets(student, teacher, temperature=3.0)
    assert found.shape == ()
    assert found.item() == pytest.approx(by_formula(student, teacher, target, 3.0, alpha=1.0), rel=1e-5)


def test_without_a_teacher_it_is_cross_entropy() -> None:
    student, teacher, target = batch()
    assert distillation(student, teacher, target, temperature=4.0, alpha=0.0).item() == F.cross_entropy(student, target).item()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.0, 1.0), (1.0, 0.0)])
def test_the_formula_of_decoupled(alpha: float, beta: float, temperature: float) -> None:
    student, teacher, target = batch()
    found = decoupled(student, teacher, target, temperature=temperature, alpha=alpha, beta=beta)
    assert found.shape == ()
    assert found.item() == pytest.approx(decoupled_by_formula(student, teacher, target, temperature, alpha, beta), rel=1e-5)


def test_decoupled_with_the_weights_of_plain_distillation_is_plain_distillation() -> None:
    student, teacher, target = batch()
    one_by_one = [
        decoupled(s, t, label, temperature=2.0, alpha=1.0, beta=1 - F.softmax(t / 2.0, dim=1)[0, label].item())
        for s, t, label in zip(student.split(1), teacher.split(1), target.split(1), strict=True)
    ]
    assert torch.stack(one_by_one).mean().item() == pytest.approx(
        soft_targets(student, teacher, temperature=2.0).item(), rel=1e-5
    )


def test_of_two_classes_decoupled_has_nothing_beside_the_target() -> None:
    student, teacher, target = torch.randn(5, 2), torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    found = decoupled(student, teacher, target, temperature=2.0, alpha=1.0, beta=100.0)
    assert found.item() == pytest.approx(soft_targets(student, teacher, temperature=2.0).item(), rel=1e-5)


def test_a_student_that_equals_its_teacher_loses_nothing() -> None:
    student, _, target = batch()
    assert distillation(student, student, target, temperature=2.0, alpha=1.0).item() == pytest.approx(0, abs=1e-6)
    assert decoupled(student, student, target, temperature=2.0, alpha=1.0, beta=8.0).item() == pytest.approx(0, abs=1e-5)


def test_a_doubled_batch_has_the_same_loss() -> None:
    one = batch()
    two = (torch.cat([each, each]) for each in one)
    student, teacher, target = two
    for loss, options in ((distillation, {"alpha": 0.7}), (decoupled, {"alpha": 1.0, "beta": 4.0})):
        twice = loss(student, teacher, target, temperature=3.0, **options)
        assert twice.item() == pytest.approx(loss(*one, temperature=3.0, **options).item(), rel=1e-6)


def test_the_gradient_does_not_vanish_with_the_temperature() -> None:
    # For large T the gradient of the soft part tends to (s - t) / classes / batch for centred logits: T^2 makes it so.
    student, teacher, target = batch()
    student, teacher = (x - x.mean(1, keepdim=True) for x in (student, teacher))
    for temperature in (100.0, 1000.0):
        logits = student.clone().requires_grad_()
        distillation(logits, teacher, target, temperature=temperature, alpha=1.0).backward()
        assert logits.grad is not None
        assert torch.allclose(logits.grad, (student - teacher) / 4 / 6, atol=0.02)


def test_gradients_are_those_of_finite_differences() -> None:
    student, teacher, target = batch()
    student = student.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: distillation(s, teacher, target, temperature=3.0, alpha=0.7), student)
    assert torch.autograd.gradcheck(lambda s: decoupled(s, teacher, target, temperature=3.0, alpha=1.0, beta=4.0), student)


def test_large_logits_stay_finite() -> None:
    student = torch.tensor([[1000.0, -1000.0, 0.0]], requires_grad=True)
    loss = distillation(student, -student.detach(), torch.tensor([0]), temperature=1.0, alpha=0.5)
    loss = loss + decoupled(student, -student.detach(), torch.tensor([0]), temperature=1.0, alpha=1.0, beta=8.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None and student.grad.isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    logits, target = torch.randn(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(UserError) as caught:
        soft_targets(logits, torch.randn(3, 5), temperature=1.0)
    assert str(caught.value) == (
        "soft_targets: the student's (3, 4) and the teacher's (3, 5) do not fit: both must be (N, classes) with the same classes"
    )
    with pytest.raises(UserError) as caught:
        soft_targets(logits[None], logits[None], temperature=1.0)
    assert str(caught.value).startswith("soft_targets: the student's (1, 3, 4) and the teacher's (1, 3, 4) do not fit: ")
    with pytest.raises(UserError) as caught:
        soft_targets(logits, logits, temperature=0.0)
    assert str(caught.value) == "soft_targets: temperature must be above 0, got 0.0"
    with pytest.raises(UserError) as caught:
        decoupled(logits[:, :1], logits[:, :1], target, temperature=1.0, alpha=1.0, beta=1.0)
    assert str(caught.value) == (
        "decoupled: the student's (3, 1) and the teacher's (3, 1) do not fit: "
        "both must be (N, classes) with the same classes, of which there are two or more"
    )
    with pytest.raises(UserError) as caught:
        decoupled(logits, logits, target, temperature=-2, alpha=1.0, beta=1.0)
    assert str(caught.value) == "decoupled: temperature must be above 0, got -2"
    with pytest.raises(UserError) as caught:
        decoupled(logits, logits, F.one_hot(target, 4).float(), temperature=1.0, alpha=1.0, beta=1.0)
    assert str(caught.value) == (
        "decoupled: the target must be one class index (int64) for each of 3 samples, got float32 of shape (3, 4)"
    )
    with pytest.raises(UserError) as caught:
        decoupled(logits, logits, target.float(), temperature=1.0, alpha=1.0, beta=1.0)
    assert str(caught.value).endswith("got float32 of shape (3,)")
