"""Sums of losses between two networks: what they look at, what they train along, and that each of them lowers itself."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from compress import losses
from compress.distillation import TERMS, Objective, Options, Teacher, objective
from compress.distillation.attention import attention_in, blocks, paired_blocks
from compress.errors import UserError
from compress.training import Settings, fit

CPU = torch.device("cpu")


class Net(nn.Module):
    """Two stages of convolutions and a head."""

    def __init__(self, width: int, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x)).mean((2, 3)))


def bert(layers: int, width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 12, "hidden_size": width, "num_attention_heads": 2, "intermediate_size": 2 * width}
    # Weights so large that the outputs differ from sample to sample.
    config = transformers.BertConfig(**sizes, num_hidden_layers=layers, num_labels=3, use_cache=False, initializer_range=0.5)
    return transformers.BertForSequenceClassification(config)


def images(seed: int, count: int = 4) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 3) for _ in range(count)]


def texts(seed: int, count: int = 4) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(8, 6, dtype=torch.long)
    mask[:3, 4:] = 0
    return [(torch.randint(12, (8, 6), generator=generator), mask, torch.arange(8) % 3) for _ in range(count)]


def of_transformers(name: str) -> bool:
    return name.startswith("tinybert") or name == "minilm"


@pytest.mark.parametrize("name", TERMS)
def test_a_short_training_lowers_its_own_loss_on_batches_it_has_not_seen(name: str) -> None:
    student, teacher = (bert(1, 8), bert(2, 16, seed=1)) if of_transformers(name) else (Net(4), Net(6, seed=1))
    seen, unseen = (texts(0, 12), texts(1)) if of_transformers(name) else (images(0, 12), images(1))
    if name == "ce":  # labels that have something to do with the inputs
        seen, unseen = ([(x, (x.mean((1, 2, 3)) > 0).long()) for x, _ in part] for part in (seen, unseen))
    with objective(student, Teacher(teacher, CPU), {name: 1.0}, seen[0][:-1]) as loss:
        before = held_out(student, loss, unseen)
        settings = Settings(epochs=6, lr=0.02, optimizer="adamw", schedule="constant")
        fit(student, lambda: seen, loss, settings, autocast=False)
        assert held_out(student, loss, unseen) < 0.97 * before


def held_out(student: nn.Module, loss: Objective, batches: list[tuple[Tensor, ...]]) -> float:
    """The mean loss over batches, in eval mode, of a student and of what is trained along."""
    student.eval()
    loss.eval()
    with torch.no_grad():
        found = [loss(logits(student, inputs), tuple(inputs), target).item() for *inputs, target in batches]
    student.train()
    loss.train()
    return math.fsum(found) / len(found)


def logits(model: nn.Module, inputs: list[Tensor]) -> Tensor:
    found = model(*inputs)
    return found if isinstance(found, Tensor) else found.logits


def test_the_weighted_sum() -> None:
    student, teacher, (x, y) = Net(4).eval(), Net(4, seed=1).eval(), images(0)[0]
    weights, options = {"kd": 0.7, "ce": 0.3, "hint": 5.0}, Options(temperature=3.0, label_smoothing=0.1)
    with objective(student, Teacher(teacher, CPU, autocast=False), weights, (x,), options=options) as loss:
        out = student(x)
        found = loss(out, (x,), y)
    one, two = student.one(x), teacher.one(x)
    hints = [losses.hint(one, two), losses.hint(student.two(one), teacher.two(two))]
    soft = losses.soft_targets(out, teacher(x), temperature=3.0)
    expected = 0.7 * soft + 0.3 * F.cross_entropy(out, y, label_smoothing=0.1) + 5 * (hints[0] + hints[1]) / 2
    assert torch.allclose(found, expected, rtol=1e-5)
    assert list(loss.terms) == list(weights) and not any(term.requires_grad for term in loss.terms.values())
    assert torch.allclose(loss.terms["kd"], 0.7 * soft, rtol=1e-5)
    assert torch.allclose(loss.terms["hint"], 5 * (hints[0] + hints[1]) / 2, rtol=1e-5)


def test_a_single_loss_has_no_terms() -> None:
    student, (x, y) = Net(4).eval(), images(0)[0]
    with objective(student, None, {"ce": 1.0}, (x,)) as loss:
        loss(student(x), (x,), y)
    assert loss.terms == {}


def test_widths_are_projected_and_the_projections_stay_outside() -> None:
    student, teacher = Net(4), Net(6)
    names = set(student.state_dict())
    with objective(student, Teacher(teacher, CPU), {"hint": 1.0}, (torch.randn(2, 3, 8, 8),)) as loss:
        assert [tuple(p.shape) for p in loss.parameters()] == [(6, 4, 1, 1), (12, 8, 1, 1)]
        before = [p.clone() for p in loss.parameters()]
        fit(student, lambda: images(0), loss, Settings(epochs=1, lr=0.1))
        assert not any(torch.equal(p, old) for p, old in zip(loss.parameters(), before, strict=True))
    assert set(student.state_dict()) == names
    assert not any(module._forward_hooks for module in student.modules())


def test_the_teacher_does_not_change() -> None:
    student, teacher = Net(4), Net(6)
    asked = Teacher(teacher, CPU)
    before = {name: tensor.clone() for name, tensor in asked.network.state_dict().items()}
    with objective(student, asked, {"kd": 1.0, "hint": 1.0}, (torch.randn(2, 3, 8, 8),)) as loss:
        fit(student, lambda: images(0), loss, Settings(epochs=1, lr=0.1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in asked.network.state_dict().items())


def test_pairs_can_be_named() -> None:
    student, teacher, (x, y) = Net(4).eval(), Net(4, seed=1).eval(), images(0)[0]
    with objective(student, Teacher(teacher, CPU, autocast=False), {"at": 1.0}, (x,), pairs={"one.0": "two.1"}) as loss:
        found = loss(student(x), (x,), y)
    expected = losses.attention_transfer(student.one[0](x), teacher.two[1](teacher.two[0](teacher.one(x))))
    assert torch.allclose(found, expected, rtol=1e-5)


CASES = {
    "other classes": (Net(4, classes=3), Net(4, classes=5), {"kd": 1.0}, None),
    "no such layer": (Net(4), Net(4), {"hint": 1.0}, {"one": "too"}),
    "nothing in common": (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), Net(4), {"hint": 1.0}, None),
    "other kinds": (Net(4), Net(4), {"hint": 1.0}, {"one": "head"}),
    "no attention": (Net(4), Net(4), {"minilm": 1.0}, {"one": "one"}),
    "unknown": (Net(4), Net(4), {"kdd": 1.0}, None),
}
TOLD = {
    "other classes": "the teacher gives 5 numbers for a sample, the student 3: they are of other classes",
    "no such layer": "the teacher has no layer 'too'. Did you mean 'two'?",
    "nothing in common": "the loss hint compares layers, and none could be paired by name; say which with pairs",
    "other kinds": "the outputs of 'one' and 'head' cannot be compared: (2, 4, 8, 8) and (2, 3)",
    "no attention": "no layers called query, key and value in the student's 'one'; name one block or one attention",
    "unknown": "unknown loss 'kdd'. Did you mean 'kd'?",
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_compared_is_told(case: str) -> None:
    student, teacher, weights, pairs = CASES[case]
    with (
        pytest.raises(UserError) as error,
        objective(student, Teacher(teacher, CPU), weights, (torch.randn(2, 3, 8, 8),), pairs=pairs),
    ):
        pass
    assert str(error.value) == TOLD[case]
    assert not any(module._forward_hooks for module in student.modules())


@pytest.mark.parametrize("name", ["dkd", "crd"])
def test_mixed_labels_are_refused_by_losses_on_classes(name: str) -> None:
    student, teacher = Net(4), Net(4)
    with (
        objective(student, Teacher(teacher, CPU), {name: 1.0}, (torch.randn(2, 3, 8, 8),)) as loss,
        pytest.raises(UserError) as error,
    ):
        fit(student, lambda: images(0), loss, Settings(epochs=1, mixup=0.2))
    assert str(error.value) == f"the loss {name} needs one class for each sample; leave mixup out"


# Transformers


def test_blocks_are_paired_so_that_the_last_meet() -> None:
    prefix = "bert.encoder.layer."
    assert blocks(bert(2, 8)) == [prefix + "0", prefix + "1"]
    assert paired_blocks(bert(2, 8), bert(6, 8)) == {prefix + "0": prefix + "2", prefix + "1": prefix + "5"}
    assert paired_blocks(bert(3, 8), bert(2, 8)) == {}
    assert paired_blocks(Net(4), bert(2, 8)) == {}


FAMILIES = {
    "distilbert": lambda: transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(vocab_size=8, dim=16, n_layers=1, n_heads=4, hidden_dim=8)
    ),
    "vit": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8, image_size=8, patch_size=4
        )
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_projections_of_other_families_are_found(family: str) -> None:
    model = FAMILIES[family]()
    (block,) = blocks(model)
    found = attention_in(model, block, "student")
    assert found.heads == 4
    names = dict(model.named_modules())
    assert all(names[path].out_features == 16 for path in (found.query, found.key, found.value))
    assert len({found.query, found.key, found.value}) == 3


def test_padding_does_not_count() -> None:
    student, teacher, (ids, mask, target) = bert(1, 8).eval(), bert(2, 16).eval(), texts(0)[0]
    others = torch.where(mask == 1, ids, (ids + 5) % 12)
    weights = {"tinybert_hidden": 1.0, "tinybert_attention": 1.0, "minilm": 1.0}
    with objective(student, Teacher(teacher, CPU, autocast=False), weights, (ids, mask)) as loss:
        found = [loss(logits(student, [x, mask]), (x, mask), target).item() for x in (ids, others)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield
