"""Losses on feature maps against loops over samples, channels and positions."""

import math

import pytest
import torch
from torch import Tensor

from compress.errors import UserError
from compress.losses import attention_transfer, hint


def attention_by_loops(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        maps = [
            [float(sum(x[c, i, j] ** 2 for c in range(len(x)))) for i in range(x.shape[1]) for j in range(x.shape[2])]
            for x in (s, t)
        ]
        maps = [[value / math.sqrt(sum(v * v for v in each)) for value in each] for each in maps]
        total += sum((a - b) ** 2 for a, b in zip(*maps, strict=True))
    return total / len(student)


def test_a_hint_of_numbers_worked_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[2.0, 2.0], [-4.0, 0.0]])
    assert hint(student, teacher).item() == pytest.approx((1 + 0 + 16 + 1) / (4 + 4 + 16 + 0))


def test_a_hint_is_zero_at_the_teacher_and_one_at_zero_whatever_the_scale() -> None:
    teacher = torch.randn(3, 4, 5, 5)
    for scale in (1e-3, 1.0, 1e3):
        assert hint(teacher * scale, teacher * scale).item() == 0
        assert hint(torch.zeros_like(teacher), teacher * scale).item() == pytest.approx(1)


def test_a_hint_of_a_doubled_batch_is_the_same() -> None:
    student, teacher = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    twice = hint(torch.cat([student, student]), torch.cat([teacher, teacher]))
    assert twice.item() == pytest.approx(hint(student, teacher).item(), rel=1e-6)


def test_a_teacher_of_zeros_gives_the_plain_squares() -> None:
    student = torch.tensor([[1.0, -2.0]], requires_grad=True)
    loss = hint(student, torch.zeros(1, 2))
    loss.backward()
    assert loss.item() == 2.5
    assert student.grad is not None and student.grad.tolist() == [[1.0, -2.0]]


def test_attention_transfer_against_loops() -> None:
    student, teacher = torch.randn(3, 4, 5, 2), torch.randn(3, 7, 5, 2)
    found = attention_transfer(student, teacher)
    assert found.shape == ()
    assert found.item() == pytest.approx(attention_by_loops(student, teacher), rel=1e-5)


def test_maps_apart_are_two_and_maps_alike_are_zero() -> None:
    student, teacher = torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)
    student[0, 1, 0, 0], teacher[0, 0, 1, 1] = -5.0, 3.0
    assert attention_transfer(student, teacher).item() == pytest.approx(2)
    assert attention_transfer(student, student.repeat(1, 3, 1, 1)).item() == pytest.approx(0, abs=1e-12)


def test_neither_scale_nor_sign_nor_number_of_channels_counts() -> None:
    student, teacher = torch.randn(3, 4, 5, 5), torch.randn(3, 6, 5, 5)
    expected = attention_transfer(student, teacher).item()
    for scale in (1e-2, -1.0, 1e3):
        assert attention_transfer(student * scale, teacher).item() == pytest.approx(expected, rel=1e-4)
    each_its_own = teacher * torch.tensor([0.1, 3.0, 20.0]).view(3, 1, 1, 1)
    assert attention_transfer(student.repeat(1, 2, 1, 1), each_its_own).item() == pytest.approx(expected, rel=1e-4)


def test_attention_transfer_of_a_doubled_batch_is_the_same() -> None:
    student, teacher = torch.randn(3, 4, 5, 5), torch.randn(3, 6, 5, 5)
    twice = attention_transfer(torch.cat([student, student]), torch.cat([teacher, teacher]))
    assert twice.item() == pytest.approx(attention_transfer(student, teacher).item(), rel=1e-6)


def test_a_larger_map_of_the_student_is_averaged_and_a_smaller_one_repeated() -> None:
    student, teacher = torch.randn(2, 3, 6, 4), torch.randn(2, 5, 3, 2)
    averaged = student.square().mean(1, keepdim=True).reshape(2, 1, 3, 2, 2, 2).mean((3, 5))
    expected = attention_by_loops(averaged.sqrt(), teacher)
    assert attention_transfer(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    repeated = teacher.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert attention_transfer(teacher, student).item() == pytest.approx(attention_by_loops(repeated, student), rel=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.double, requires_grad=True), torch.randn(2, 3, 4, 4).double()
    assert torch.autograd.gradcheck(lambda s: hint(s, teacher), student)
    assert torch.autograd.gradcheck(lambda s: attention_transfer(s, teacher[:, :2, :2, :2]), student)


def test_gradients_are_finite_where_features_are_zero_or_agree() -> None:
    teacher = torch.randn(2, 3, 4, 4)
    for values in (torch.zeros(2, 3, 4, 4), teacher.clone()):
        for to in (teacher, torch.zeros_like(teacher)):
            student = values.clone().requires_grad_()
            attention_transfer(student, to).backward()
            assert student.grad is not None and student.grad.isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        hint(torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 4, 4))
    assert str(caught.value) == (
        "hint: the student's (2, 8, 4, 4) and the teacher's (2, 16, 4, 4) do not fit: both must be of one shape; project the student's"
    )
    expected = "both must be (N, C, H, W) with the same N"
    for student, teacher in (((2, 8, 4, 4), (3, 8, 4, 4)), ((2, 8, 16), (2, 8, 16))):
        with pytest.raises(UserError) as caught:
            attention_transfer(torch.zeros(student), torch.zeros(teacher))
        assert (
            str(caught.value) == f"attention_transfer: the student's {student} and the teacher's {teacher} do not fit: {expected}"
        )
