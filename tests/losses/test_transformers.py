"""Losses on transformers against loops over samples, heads and tokens; padding has no influence."""

import math

import pytest
import torch
from torch import Tensor

from compress.errors import UserError
from compress.losses import attention_scores, relation, transformer_attention, transformer_hidden, transformer_prediction

N, T, WIDTH, HEADS, CLASSES = 3, 5, 6, 2, 4
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 0, 0]]).bool()
MASKS = (None, MASK)


def real(mask: Tensor | None) -> list[list[int]]:
    """The positions of the real tokens of each sample."""
    return [[i for i in range(T) if mask is None or mask[n, i]] for n in range(N)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def hidden_by_loops(student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    gaps = [(student[n, i] - teacher[n, i]).tolist() for n, tokens in enumerate(real(mask)) for i in tokens]
    return mean([gap * gap for row in gaps for gap in row])


def attention_by_loops(student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    gaps = [(student - teacher)[n, :, i, j].tolist() for n, tokens in enumerate(real(mask)) for i in tokens for j in tokens]
    return mean([gap * gap for row in gaps for gap in row])


def prediction_by_loops(student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float) -> float:
    values = []
    for n, tokens in enumerate(real(mask)):
        for i in tokens:
            got, wanted = (softmax((x[n, i] / temperature).tolist()) for x in (student, teacher))
            values.append(-sum(w * math.log(g) for w, g in zip(wanted, got, strict=True)))
    return mean(values)


def relation_by_loops(student: Tensor, teacher: Tensor, mask: Tensor | None, heads: int) -> float:
    values = []
    for n, tokens in enumerate(real(mask)):
        for head in range(heads):
            for i in tokens:
                rows = []
                for x in (student[n], teacher[n]):
                    d = x.shape[1] // heads
                    part = x[:, head * d : (head + 1) * d]
                    rows.append(softmax([dot(part[i], part[j]) / math.sqrt(d) for j in tokens]))
                values.append(sum(w * math.log(w / g) for g, w in zip(*rows, strict=True)))
    return mean(values)


def hidden(width: int = WIDTH) -> Tensor:
    return torch.randn(N, T, width, dtype=torch.double)


def scores() -> Tensor:
    return torch.randn(N, HEADS, T, T, dtype=torch.double)


def heads_2(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    return relation(student, teacher, heads=2, mask=mask)


def warm(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    return transformer_prediction(student, teacher, temperature=2.0, mask=mask)


CASES = [
    pytest.param(transformer_hidden, hidden, hidden, id="hidden"),
    pytest.param(transformer_attention, scores, scores, id="attention"),
    pytest.param(warm, lambda: hidden(CLASSES), lambda: hidden(CLASSES), id="prediction"),
    pytest.param(heads_2, hidden, lambda: hidden(4), id="relation"),
]


@pytest.mark.parametrize("mask", MASKS)
def test_the_formulas(mask: Tensor | None) -> None:
    student, teacher, wider = hidden(), hidden(), hidden(12)
    assert transformer_hidden(student, teacher, mask=mask).shape == ()
    assert transformer_hidden(student, teacher, mask=mask).item() == pytest.approx(hidden_by_loops(student, teacher, mask))
    own, others = scores(), scores()
    assert transformer_attention(own, others, mask=mask).shape == ()
    assert transformer_attention(own, others, mask=mask).item() == pytest.approx(attention_by_loops(own, others, mask))
    for temperature in (0.5, 1.0, 3.0):
        found = transformer_prediction(student, teacher, temperature=temperature, mask=mask)
        assert found.shape == ()
        assert found.item() == pytest.approx(prediction_by_loops(student, teacher, mask, temperature))
    for heads in (1, 2, 3):
        found = relation(student, wider, heads=heads, mask=mask)
        assert found.shape == ()
        assert found.item() == pytest.approx(relation_by_loops(student, wider, mask, heads))


def test_predictions_of_whole_texts_are_those_of_single_tokens() -> None:
    student, teacher = hidden(CLASSES), hidden(CLASSES)
    expected = transformer_prediction(student, teacher, temperature=2.0)
    assert transformer_prediction(student.flatten(0, 1), teacher.flatten(0, 1), temperature=2.0).item() == expected.item()


def test_attention_scores_against_loops() -> None:
    query, key = hidden(), hidden()
    found = attention_scores(query, key, heads=HEADS)
    d = WIDTH // HEADS
    for n in range(N):
        for head in range(HEADS):
            part = slice(head * d, (head + 1) * d)
            expected = [[dot(query[n, i, part], key[n, j, part]) / math.sqrt(d) for j in range(T)] for i in range(T)]
            assert found[n, head].tolist() == [pytest.approx(row) for row in expected]
    assert found.shape == (N, HEADS, T, T)


@pytest.mark.parametrize(("loss", "make_student", "make_teacher"), CASES)
def test_padding_has_no_influence_and_no_gradient(loss, make_student, make_teacher) -> None:
    student, teacher = make_student().requires_grad_(), make_teacher()
    value = loss(student, teacher, mask=MASK)
    (gradient,) = torch.autograd.grad(value, student)
    padding = ~MASK[..., None] if student.ndim == 3 else ~(MASK[:, None, :, None] & MASK[:, None, None, :])
    assert not gradient[padding.expand_as(gradient)].any()
    assert gradient[~padding.expand_as(gradient)].any()
    for other in (1000.0, -3.0):
        changed = loss(student.masked_fill(padding, other), teacher.masked_fill(padding, -2 * other), mask=MASK)
        assert changed.item() == value.item()


@pytest.mark.parametrize(("loss", "make_student", "make_teacher"), CASES)
def test_a_mask_of_real_tokens_alone_is_none(loss, make_student, make_teacher) -> None:
    student, teacher = make_student(), make_teacher()
    assert loss(student, teacher, mask=torch.ones(N, T, dtype=torch.bool)).item() == pytest.approx(loss(student, teacher).item())


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("loss", "make_student", "make_teacher"), CASES)
def test_a_doubled_batch_has_the_same_loss(loss, make_student, make_teacher, mask: Tensor | None) -> None:
    student, teacher = make_student(), make_teacher()
    twice = None if mask is None else torch.cat([mask, mask])
    found = loss(torch.cat([student, student]), torch.cat([teacher, teacher]), mask=twice)
    assert found.item() == pytest.approx(loss(student, teacher, mask=mask).item())


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("loss", "make_student", "make_teacher"), CASES)
def test_nothing_is_below_a_student_that_equals_its_teacher(loss, make_student, make_teacher, mask: Tensor | None) -> None:
    student = make_student().requires_grad_()
    value = loss(student, student.detach(), mask=mask)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.abs().max() < 1e-12
    assert loss(student + 0.1 * torch.randn_like(student), student.detach(), mask=mask) > value
    if loss is not warm:
        assert value.item() == pytest.approx(0, abs=1e-12)


def test_relations_do_not_see_a_rotation_within_heads() -> None:
    student, teacher = hidden(), hidden(4)
    turn = torch.block_diag(*(torch.linalg.qr(torch.randn(3, 3, dtype=torch.double)).Q for _ in range(2)))
    expected = relation(student, teacher, heads=2).item()
    assert relation(student @ turn, teacher, heads=2).item() == pytest.approx(expected)
    assert relation(student @ turn, teacher, heads=1).item() == pytest.approx(relation(student, teacher, heads=1).item())
    assert relation(student.flip(2), teacher, heads=2).item() != pytest.approx(expected)  # the heads change places


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("loss", "make_student", "make_teacher"), CASES)
def test_gradients_are_those_of_finite_differences(loss, make_student, make_teacher, mask: Tensor | None) -> None:
    teacher = make_teacher()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, mask=mask), make_student().requires_grad_())


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda: transformer_hidden(hidden(), hidden(4)),
            "transformer_hidden: the student's (3, 5, 6) and the teacher's (3, 5, 4) do not fit: "
            "both must be (N, T, width) of one shape; project the student's",
        ),
        (
            lambda: transformer_attention(scores(), scores()[:, :1]),
            "transformer_attention: the student's (3, 2, 5, 5) and the teacher's (3, 1, 5, 5) do not fit: "
            "both must be (N, heads, T, T) with as many heads",
        ),
        (
            lambda: transformer_attention(scores()[:, :, 1:], scores()[:, :, 1:]),
            "transformer_attention: the student's (3, 2, 4, 5) and the teacher's (3, 2, 4, 5) do not fit: "
            "both must be (N, heads, T, T) with as many heads",
        ),
        (
            lambda: transformer_prediction(hidden(), hidden(4), temperature=1.0),
            "transformer_prediction: the student's (3, 5, 6) and the teacher's (3, 5, 4) do not fit: "
            "both must be (N, classes) or (N, T, classes) with the same classes",
        ),
        (
            lambda: transformer_prediction(hidden(), hidden(), temperature=0),
            "transformer_prediction: temperature must be above 0, got 0",
        ),
        (
            lambda: transformer_prediction(hidden()[0], hidden()[0], temperature=1.0, mask=MASK),
            "transformer_prediction: a mask goes with logits of tokens (N, T, classes), not with (5, 6)",
        ),
        (
            lambda: relation(hidden(), hidden()[:2], heads=2),
            "relation: the student's (3, 5, 6) and the teacher's (2, 5, 6) do not fit: "
            "both must be (N, T, width) with the same N and T",
        ),
        (lambda: relation(hidden(), hidden(4), heads=3), "relation: heads must divide the width, got 3 for (3, 5, 4)"),
        (lambda: relation(hidden(), hidden(), heads=0), "relation: heads must divide the width, got 0 for (3, 5, 6)"),
        (
            lambda: attention_scores(hidden(), hidden(), heads=4),
            "attention_scores: heads must divide the width, got 4 for (3, 5, 6)",
        ),
        (
            lambda: attention_scores(hidden(), hidden(4), heads=2),
            "attention_scores: queries (3, 5, 6) and keys (3, 5, 4) do not fit: both must be (N, T, width) of one shape",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["transformer_hidden", "transformer_attention", "transformer_prediction", "relation"])
def test_a_mask_that_does_not_fit_is_refused(name: str) -> None:
    def ask(mask: Tensor) -> str:
        calls = {
            "transformer_hidden": lambda: transformer_hidden(hidden(), hidden(), mask=mask),
            "transformer_attention": lambda: transformer_attention(scores(), scores(), mask=mask),
            "transformer_prediction": lambda: transformer_prediction(hidden(), hidden(), temperature=1.0, mask=mask),
            "relation": lambda: relation(hidden(), hidden(), heads=2, mask=mask),
        }
        with pytest.raises(UserError) as caught:
            calls[name]()
        return str(caught.value)

    assert ask(MASK[:, :4]) == f"{name}: the mask must be bool of shape (3, 5), got bool of shape (3, 4)"
    assert ask(MASK.long()) == f"{name}: the mask must be bool of shape (3, 5), got int64 of shape (3, 5)"
    assert ask(torch.zeros_like(MASK)) == f"{name}: the mask of shape (3, 5) is true for no token"
