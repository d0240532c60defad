"""The losses that a recipe can name, and what each of them looks at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import losses
from compress.distillation.attention import Attention
from compress.errors import UserError, did_you_mean

Pair = tuple[str, str]  # path in the student, path in the teacher


@dataclass
class Compared:
    """One batch, as student and teacher see it.

    Attributes:
        student, teacher: logits (batch, classes); the teacher's are None where no loss asks for them.
        target: class indices (batch,), or shares of classes (batch, classes) where samples are mixed.
        features: pair -> the outputs of both modules.
        mask: (batch, tokens) of a text without its padding; None where there is none.
    """

    student: Tensor
    teacher: Tensor | None
    target: Tensor
    features: dict[Pair, tuple[Tensor, Tensor]] = field(default_factory=dict)
    mask: Tensor | None = None


@dataclass(frozen=True)
class Options:
    """What losses are tuned by: the temperature above 0, the smoothing of labels in [0, 1), and the size of the training set."""

    temperature: float = 4.0
    label_smoothing: float = 0.0
    samples: int = 50_000


@dataclass(frozen=True)
class Scene:
    """What a loss is made for.

    Attributes:
        pairs: what it compares, in the order of the forward.
        example: a batch of examples, for widths.
        attentions: of each pair, for losses that look into attentions.
    """

    options: Options
    pairs: Sequence[Pair]
    example: Compared
    attentions: dict[Pair, tuple[Attention, Attention]]


@dataclass(frozen=True)
class Term:
    """A loss that a recipe can name.

    Attributes:
        weight: where only the name is given.
        sees: what it compares: labels, logits, the outputs of layers, or the queries, keys and values of attentions.
        source: the paper.
        make: the loss as a module.
    """

    weight: float
    sees: Literal["labels", "logits", "features", "attention"]
    source: str
    make: Callable[["Scene"], nn.Module]


class _Part(nn.Module):
    """A loss without parameters."""

    def __init__(self, function: Callable[[Compared], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, batch: Compared) -> Tensor:
        return self.function(batch)


class _OnPairs(nn.Module):
    """The mean over pairs of a loss on two outputs, the student's brought to the teacher's shape."""

    def __init__(self, pairs: Sequence[Pair], example: Compared, loss: Callable[..., Tensor], *, project: bool) -> None:
        super().__init__()
        self.pairs, self.loss = pairs, loss
        layers = [projection(*example.features[pair], pair) if project else nn.Identity() for pair in pairs]
        self.projections = nn.ModuleList(layers)

    def forward(self, batch: Compared) -> Tensor:
        values = [
            self.loss(layer(student), teacher, batch)
            for layer, (student, teacher) in zip(self.projections, (batch.features[pair] for pair in self.pairs), strict=True)
        ]
        return torch.stack(values).mean()


class _Contrast(nn.Module):
    """CRD on one pair, whose positions are averaged."""

    def __init__(self, pair: Pair, example: Compared, samples: int) -> None:
        super().__init__()
        self.pair = pair
        student, teacher = (pooled(x) for x in example.features[self.pair])
        self.loss = losses.Contrastive(student.shape[1], teacher.shape[1], samples=samples)

    def forward(self, batch: Compared) -> Tensor:
        student, teacher = (pooled(x) for x in batch.features[self.pair])
        return self.loss(student, teacher, _indices(batch.target, "crd"))


def projection(student: Tensor, teacher: Tensor, pair: Pair) -> nn.Module:
    """What brings a student's output to the width of the teacher's: a linear map without bias, or nothing where they agree."""
    if student.ndim != teacher.ndim or student.ndim not in (2, 3, 4):
        raise UserError(
            f"the outputs of '{pair[0]}' and '{pair[1]}' cannot be compared: {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    axis = 1 if student.ndim == 4 else -1
    own, other = student.shape[axis], teacher.shape[axis]
    if own == other:
        return nn.Identity()
    return nn.Conv2d(own, other, 1, bias=False) if student.ndim == 4 else nn.Linear(own, other, bias=False)


def same_grid(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Feature maps (N, C, H, W) at the smaller of both heights and widths, by averaging; anything else as it is."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)


def pooled(x: Tensor) -> Tensor:
    """(N, C) of feature maps (N, C, H, W) or of tokens (N, T, C), by averaging."""
    if x.ndim == 4:
        return x.mean((2, 3))
    return x.mean(1) if x.ndim == 3 else x


def _tokens(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 3:
        shape = "x".join(map(str, student.shape))
        raise UserError(f"the loss tinybert_hidden compares tokens, batch x tokens x width; an output of {shape} has none")
    return student, teacher


def _indices(target: Tensor, name: str) -> Tensor:
    if target.ndim != 1:
        raise UserError(f"the loss {name} needs one class for each sample; leave mixup out")
    return target


def _on_logits(function: Callable[[Tensor, Tensor, Tensor, Options], Tensor]) -> Callable[[Scene], nn.Module]:
    def make(scene: Scene) -> nn.Module:
        def loss(batch: Compared) -> Tensor:
            assert batch.teacher is not None
            return function(batch.student, batch.teacher, batch.target, scene.options)

        return _Part(loss)

    return make


def _on_labels(scene: Scene) -> nn.Module:
    smoothing = scene.options.label_smoothing
    return _Part(lambda batch: F.cross_entropy(batch.student, batch.target, label_smoothing=smoothing))


def _on_pairs(loss: Callable[..., Tensor], *, project: bool = False, last: bool = False) -> Callable[[Scene], nn.Module]:
    def make(scene: Scene) -> nn.Module:
        return _OnPairs(scene.pairs[-1:] if last else scene.pairs, scene.example, loss, project=project)

    return make


def _on_attentions(loss: Callable[[Compared, Attention, Attention], Tensor], *, last: bool) -> Callable[[Scene], nn.Module]:
    def make(scene: Scene) -> nn.Module:
        chosen = [scene.attentions[pair] for pair in (scene.pairs[-1:] if last else scene.pairs) if pair in scene.attentions]
        return _Part(lambda batch: torch.stack([loss(batch, student, teacher) for student, teacher in chosen]).mean())

    return make


def _scores(batch: Compared, student: Attention, teacher: Attention) -> Tensor:
    queries, keys = batch.features[student.query, teacher.query], batch.features[student.key, teacher.key]
    own, other = (
        losses.attention_scores(query, key, heads=attention.heads)
        for query, key, attention in zip(queries, keys, (student, teacher), strict=True)
    )
    return losses.transformer_attention(own, other, mask=batch.mask)


def _relations(batch: Compared, student: Attention, teacher: Attention) -> Tensor:
    pairs = ((student.query, teacher.query), (student.key, teacher.key), (student.value, teacher.value))
    width = batch.features[pairs[0]][0].shape[-1]
    heads = teacher.heads if width % teacher.heads == 0 else student.heads
    return torch.stack([losses.relation(*batch.features[pair], heads=heads, mask=batch.mask) for pair in pairs]).mean()


TERMS: dict[str, Term] = {
    "ce": Term(1.0, "labels", "cross entropy with the labels", _on_labels),
    "kd": Term(
        0.9,
        "logits",
        "Hinton et al. 2015, Distilling the Knowledge in a Neural Network",
        _on_logits(lambda s, t, y, o: losses.soft_targets(s, t, temperature=o.temperature)),
    ),
    "dkd": Term(
        1.0,
        "logits",
        "Zhao et al. 2022, Decoupled Knowledge Distillation",
        _on_logits(lambda s, t, y, o: losses.decoupled(s, t, _indices(y, "dkd"), temperature=o.temperature, alpha=1.0, beta=8.0)),
    ),
    "hint": Term(
        30.0,
        "features",
        "Romero et al. 2015, FitNets",
        _on_pairs(lambda s, t, batch: losses.hint(*same_grid(s, t)), project=True),
    ),
    "at": Term(
        20.0,
        "features",
        "Zagoruyko and Komodakis 2017, Paying More Attention to Attention",
        _on_pairs(lambda s, t, batch: losses.attention_transfer(s, t)),
    ),
    "rkd_distance": Term(
        25.0,
        "features",
        "Park et al. 2019, Relational Knowledge Distillation",
        _on_pairs(lambda s, t, batch: losses.relational_distance(pooled(s), pooled(t)), last=True),
    ),
    "rkd_angle": Term(
        50.0,
        "features",
        "Park et al. 2019, Relational Knowledge Distillation",
        _on_pairs(lambda s, t, batch: losses.relational_angle(pooled(s), pooled(t)), last=True),
    ),
    "crd": Term(
        0.8,
        "features",
        "Tian et al. 2020, Contrastive Representation Distillation",
        lambda scene: _Contrast(scene.pairs[-1], scene.example, scene.options.samples),
    ),
    "tinybert_hidden": Term(
        1.0,
        "features",
        "Jiao et al. 2020, TinyBERT",
        _on_pairs(lambda s, t, batch: losses.transformer_hidden(*_tokens(s, t), mask=batch.mask), project=True),
    ),
    "tinybert_attention": Term(1.0, "attention", "Jiao et al. 2020, TinyBERT", _on_attentions(_scores, last=False)),
    "tinybert_prediction": Term(
        1.0,
        "logits",
        "Jiao et al. 2020, TinyBERT",
        _on_logits(lambda s, t, y, o: losses.transformer_prediction(s, t, temperature=1.0)),
    ),
    "minilm": Term(1.0, "attention", "Wang et al. 2021, MiniLMv2", _on_attentions(_relations, last=True)),
}


def find(name: str) -> Term:
    """The loss of this name.

    Raises:
        UserError: there is none; says which is near.
    """
    if name not in TERMS:
        raise UserError(f"unknown loss '{name}'." + did_you_mean(name, list(TERMS)))
    return TERMS[name]
