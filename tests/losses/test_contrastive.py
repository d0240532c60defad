"""The contrastive loss against loops over anchors and negatives, and its queue."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import UserError
from compress.losses import Contrastive


def by_loops(loss: Contrastive, student: Tensor, teacher: Tensor, target: Tensor, earlier: list[tuple[Tensor, int]]) -> float:
    """The formula as it is written, with the negatives of earlier batches given as (embedding, class)."""

    def project(layer: nn.Linear, x: Tensor) -> list[float]:
        values = (layer.weight.double() @ x.double().flatten() + layer.bias.double()).tolist()
        return [value / math.hypot(*values) for value in values]

    pool = [*zip(teacher, target.tolist(), strict=True), *earlier]
    total = 0.0
    for index, label in enumerate(target.tolist()):
        s = project(loss.of_student, student[index])
        negatives = [embedding for embedding, its_label in pool if its_label != label]
        if not negatives:
            continue

        def h(embedding: Tensor, s: list[float] = s, n: int = len(negatives)) -> float:
            t = project(loss.of_teacher, embedding)
            near = math.exp(sum(a * b for a, b in zip(s, t, strict=True)) / loss.temperature)
            return near / (near + n / loss.samples)

        total -= math.log(h(teacher[index])) + sum(math.log(1 - h(each)) for each in negatives)
    return total / len(target)


def make(**options) -> Contrastive:
    return Contrastive(3, 4, **{"samples": 20, "dim": 5, "queue": 6, "temperature": 0.5} | options)


def batch(size: int, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(size, 3), torch.randn(size, 4), torch.randint(classes, (size,))


def test_the_first_batch_has_its_negatives_in_itself() -> None:
    loss, (student, teacher, _) = make(), batch(4)
    target = torch.tensor([0, 1, 1, 2])
    found = loss(student, teacher, target)
    assert found.shape == ()
    assert found.item() == pytest.approx(by_loops(loss, student, teacher, target, []), rel=1e-5)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (4, 4, 4, 3), (5, 8, 2)])
def test_later_batches_meet_the_latest_that_fit_into_the_queue(sizes: tuple[int, ...]) -> None:
    loss, earlier = make(), []
    for size in sizes:
        student, teacher, target = batch(size)
        expected = by_loops(loss, student, teacher, target, earlier[-6:])
        assert loss(student, teacher, target).item() == pytest.approx(expected, rel=1e-5)
        earlier += zip(teacher, target.tolist(), strict=True)


def test_embeddings_are_flattened() -> None:
    loss, (student, teacher, target) = make(), batch(4)
    first = loss.eval()(student, teacher, target)
    assert loss(student[:, None], teacher.view(4, 2, 2), target).item() == first.item()


def test_without_a_negative_nothing_is_asked() -> None:
    loss, (student, teacher, _) = make(), batch(4)
    student.requires_grad_()
    value = loss(student, teacher, torch.ones(4, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert student.grad is not None and not student.grad.any()
    assert loss.of_teacher.weight.grad is not None and not loss.of_teacher.weight.grad.any()


def test_in_eval_mode_the_queue_stays() -> None:
    loss = make()
    loss(*batch(4))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()(*batch(4))
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def train(loss: Contrastive, student: nn.Module, batches: list[tuple[Tensor, Tensor, Tensor]]) -> list[float]:
    optimizer = torch.optim.SGD([*student.parameters(), *loss.parameters()], lr=0.03)
    values = []
    for x, teacher, target in batches:
        value = loss(student(x), teacher, target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


def test_what_is_resumed_goes_on_as_if_it_had_not_stopped() -> None:
    batches, student, loss = [batch(4) for _ in range(6)], nn.Linear(3, 3), make()
    start = {"student": student.state_dict(), "loss": loss.state_dict()}
    start = {name: {key: value.clone() for key, value in state.items()} for name, state in start.items()}
    whole = train(loss, student, batches)
    student.load_state_dict(start["student"])
    loss.load_state_dict(start["loss"])
    parts = train(loss, student, batches[:2])  # 8 embeddings in a queue of 6
    other_student, other_loss = nn.Linear(3, 3), make()
    other_student.load_state_dict(student.state_dict())
    other_loss.load_state_dict(loss.state_dict())
    assert parts + train(other_loss, other_student, batches[2:]) == whole


def test_students_of_unseen_samples_come_to_lie_by_teachers_of_their_class() -> None:
    x = torch.randn(48 + 100 * 32, 4)
    target = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0)
    loss, student = Contrastive(8, 4, samples=100, dim=8, queue=64), nn.Linear(4, 8)
    unseen, labels = x[:48], target[:48]

    @torch.no_grad()
    def beside_their_class() -> int:
        own = F.normalize(loss.of_student(student(unseen)), dim=1)
        others = F.normalize(loss.of_teacher(unseen), dim=1)
        return int((labels[(own @ others.T).argmax(1)] == labels).sum())

    before = beside_their_class()
    train(loss, student, [(batch, batch, labels) for batch, labels in zip(x[48:].split(32), target[48:].split(32), strict=True)])
    assert before < 18  # of 48, in four classes
    assert beside_their_class() > 26


def test_gradients_are_those_of_finite_differences() -> None:
    loss = make().double()
    loss(*(x.double() if x.is_floating_point() else x for x in batch(4)))
    loss.eval()
    student, teacher, target = batch(3)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher.double(), target), student.double().requires_grad_())


def test_what_does_not_fit_is_refused() -> None:
    student, teacher, target = batch(4)
    wanted = "both must be (N, ...) with the same N, the student's of 3 values for each sample, the teacher's of 4"
    for s, t in ((student[:, :2], teacher), (student, teacher[:3]), (student, teacher[0])):
        with pytest.raises(UserError) as caught:
            make()(s, t, target)
        shapes = f"the student's {tuple(s.shape)} and the teacher's {tuple(t.shape)}"
        assert str(caught.value) == f"Contrastive: {shapes} do not fit: {wanted}"
    with pytest.raises(UserError) as caught:
        make()(student, teacher, target[:, None])
    assert str(caught.value) == (
        "Contrastive: the target must be one class index (int64) for each of 4 samples, got int64 of shape (4, 1)"
    )
    for name in ("samples", "dim", "queue"):
        with pytest.raises(UserError) as caught:
            make(**{name: 0})
        assert str(caught.value) == f"Contrastive: {name} must be at least 1, got 0"
    with pytest.raises(UserError) as caught:
        make(temperature=0)
    assert str(caught.value) == "Contrastive: temperature must be above 0, got 0"
