"""Relational losses against loops over pairs and triplets, and what they must not depend on."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from compress.errors import UserError
from compress.losses import relational_angle, relational_distance

LOSSES = (relational_distance, relational_angle)


def huber(a: float, b: float) -> float:
    gap = abs(a - b)
    return gap * gap / 2 if gap <= 1 else gap - 0.5


def distance_by_loops(student: Tensor, teacher: Tensor) -> float:
    pairs = list(itertools.combinations(range(len(student)), 2))
    tables = []
    for x in (student.double(), teacher.double()):
        distances = [math.dist(x[i].flatten().tolist(), x[j].flatten().tolist()) for i, j in pairs]
        tables.append([each / (sum(distances) / len(pairs)) for each in distances])
    return sum(huber(a, b) for a, b in zip(*tables, strict=True)) / len(pairs)


def angle_by_loops(student: Tensor, teacher: Tensor) -> float:
    triplets = list(itertools.permutations(range(len(student)), 3))
    total = 0.0
    for i, j, k in triplets:
        cosines = []
        for x in (student.double().flatten(1), teacher.double().flatten(1)):
            a, b = (x[i] - x[j]).tolist(), (x[k] - x[j]).tolist()
            lengths = math.hypot(*a) * math.hypot(*b)
            cosines.append(sum(p * q for p, q in zip(a, b, strict=True)) / lengths if lengths else 0.0)
        total += huber(*cosines)
    return total / len(triplets)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_distances_against_loops(scale: float) -> None:
    student, teacher = torch.randn(6, 3) * scale, torch.randn(6, 2, 2)
    student[0] += 30 * scale  # so that one of the distances differs by more than 1, where Huber's loss is a line
    found = relational_distance(student, teacher)
    assert found.shape == () and found.dtype == torch.float32
    assert found.item() == pytest.approx(distance_by_loops(student, teacher), rel=1e-5)
    far_away = student + 100 * scale  # where the differences are small against the products
    assert relational_distance(far_away, teacher).item() == pytest.approx(distance_by_loops(far_away, teacher), rel=1e-5)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_angles_against_loops(scale: float) -> None:
    student, teacher = torch.randn(6, 3) * scale, torch.randn(6, 2, 2)
    found = relational_angle(student, teacher)
    assert found.shape == () and found.dtype == torch.float32
    assert found.item() == pytest.approx(angle_by_loops(student, teacher), rel=1e-5)
    far_away = student + 100 * scale  # where the differences are small against the products
    assert relational_angle(far_away, teacher).item() == pytest.approx(angle_by_loops(far_away, teacher), rel=1e-5)


def test_a_triangle_worked_by_hand() -> None:
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # sides 3, 4, 5; cosines 0, 3/5, 4/5
    teacher = torch.tensor([[0.0], [1.0], [2.0]])  # distances 1, 2, 1; cosines 1, -1, 1
    distance = ((3 / 4 - 3 / 4) ** 2 + (4 / 4 - 6 / 4) ** 2 + (5 / 4 - 3 / 4) ** 2) / 2 / 3
    assert relational_distance(student, teacher).item() == pytest.approx(distance)
    angle = (0.5 * 1**2 + (8 / 5 - 0.5) + 0.5 * (1 / 5) ** 2) / 3
    assert relational_angle(student, teacher).item() == pytest.approx(angle)


@pytest.mark.parametrize("loss", LOSSES)
def test_turned_shifted_and_scaled_embeddings_are_the_same(loss) -> None:
    student, teacher = torch.randn(7, 4), torch.randn(7, 6)
    expected = loss(student, teacher).item()
    rotation = torch.linalg.qr(torch.randn(4, 4)).Q
    assert loss(student @ rotation * 7 + 3, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert loss(student, torch.cat([teacher, torch.ones(7, 2)], dim=1) / 5).item() == pytest.approx(expected, rel=1e-5)
    order = torch.randperm(7)
    assert loss(student[order], teacher[order]).item() == pytest.approx(expected, rel=1e-5)
    assert loss(teacher @ torch.linalg.qr(torch.randn(6, 6)).Q, teacher).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("samples", [1, 2])
def test_a_batch_too_small_to_compare_has_no_loss_and_no_gradient(samples: int, loss) -> None:
    for student in (torch.randn(samples, 3), torch.zeros(samples, 3)):
        student.requires_grad_()
        value = loss(student, torch.randn(samples, 4))
        value.backward()
        assert student.grad is not None and student.grad.abs().max() < 1e-6
        if student.any() or samples == 1:
            assert value.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_and_small_where_samples_are_one(loss) -> None:
    teacher = torch.randn(5, 4)
    one = torch.randn(3)
    twice = torch.cat([torch.randn(3, 3), one.expand(2, 3)])
    nearly = twice + torch.tensor([0, 0, 0, 0, 1e-6])[:, None]
    for values in (twice, nearly, one.expand(5, 3), torch.zeros(5, 3)):
        student = values.clone().requires_grad_()
        value = loss(student, teacher)
        value.backward()
        assert value.isfinite() and value > 0
        assert student.grad is not None and student.grad.abs().max() < 1
    student = torch.randn(5, 3, requires_grad=True)
    loss(student, torch.ones(5, 4)).backward()  # a teacher that sees no difference
    assert student.grad is not None and student.grad.isfinite().all()


def test_samples_taken_for_one_are_at_distance_zero_and_at_no_angle() -> None:
    teacher = torch.randn(4, 4)
    student = torch.randn(4, 3)
    student[3] = student[2]
    assert relational_distance(student, teacher).item() == pytest.approx(distance_by_loops(student, teacher), rel=1e-5)
    assert relational_angle(student, teacher).item() == pytest.approx(angle_by_loops(student, teacher), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_of_a_smaller_space_is_larger_by_as_much_where_samples_are_one_too(loss) -> None:
    teacher, values, gradients = torch.randn(5, 4), torch.cat([torch.randn(3, 3), torch.randn(1, 3).expand(2, 3)]), []
    for scale in (1.0, 0.01):
        student = (values * scale).requires_grad_()
        loss(student, teacher).backward()
        gradients.append(student.grad * scale)
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_finite_differences(loss) -> None:
    student, teacher = torch.randn(5, 3, dtype=torch.double, requires_grad=True), torch.randn(5, 4, dtype=torch.double)
    assert loss(student, teacher).dtype == torch.double
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_does_not_fit_is_refused(loss) -> None:
    for student, teacher in (((4, 3), (5, 3)), ((4,), (4,))):
        with pytest.raises(UserError) as caught:
            loss(torch.zeros(student), torch.zeros(teacher))
        shapes = f"the student's {student} and the teacher's {teacher}"
        assert str(caught.value) == f"{loss.__name__}: {shapes} do not fit: both must be (N, ...) with the same N"
