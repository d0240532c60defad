"""A weighted sum of losses between two networks, ready for the training loop."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.distillation.attention import Attention, attention_in, paired_blocks
from compress.distillation.features import common_stages, recorded
from compress.distillation.teacher import Teacher
from compress.distillation.terms import Compared, Options, Pair, Scene, Term, find
from compress.errors import UserError
from compress.outputs import first_tensor


class Objective(nn.Module):
    """`loss(logits, inputs, target)` for `compress.training.fit`: the sum of weighted losses.

    Its parameters, such as projections between widths, are trained along and left behind.

    Attributes:
        terms: of the last call, what each loss added to the sum, by name; empty where there is only one.
    """

    def __init__(self, weights: Mapping[str, float], parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.parts = nn.ModuleDict(parts)
        self.see: Any = None  # (logits, inputs, target) -> Compared
        self.terms: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        batch = self.see(logits, inputs, target)
        found = {name: weight * self.parts[name](batch) for name, weight in self.weights.items()}
        self.terms = {name: value.detach() for name, value in found.items()} if len(found) > 1 else {}
        return torch.stack(list(found.values())).sum()


@contextmanager
def objective(
    student: nn.Module,
    teacher: Teacher | None,
    weights: Mapping[str, float],
    example_inputs: tuple[Tensor, ...],
    *,
    pairs: Mapping[str, str] | None = None,
    options: Options | None = None,
) -> Iterator[Objective]:
    """The losses `weights` between a student and its teacher, bound to the layers that they look at within the block.

    Args:
        teacher: None where no loss needs one.
        weights: name of a loss -> its weight, above 0; see `compress.distillation.terms`.
        pairs: path of a layer in the student -> path in the teacher; without, layers are paired by name, or by depth where
            both are transformers.

    Raises:
        UserError: an unknown loss or layer, outputs of other shapes, or no pair where one is needed.
    """
    terms = {name: find(name) for name in weights}
    device = next(student.parameters()).device
    bound = {name: _pairs(name, term, student, teacher, pairs) for name, term in terms.items()}
    attentions = {
        pair: (attention_in(student, pair[0], "student"), attention_in(teacher.network, pair[1], "teacher"))
        for name, term in terms.items()
        if term.sees == "attention" and teacher is not None
        for pair in bound[name]
    }
    watched = [pair for name, term in terms.items() if term.sees == "features" for pair in bound[name]]
    watched += [pair for own, other in attentions.values() for pair in _projections(own, other)]
    watched = list(dict.fromkeys(watched))
    with ExitStack() as stack:
        mine = stack.enter_context(recorded(student, [own for own, _ in watched], "student"))
        others: dict[str, Tensor] = {}
        if teacher is not None:
            others = stack.enter_context(recorded(teacher.network, [other for _, other in watched], "teacher"))
        place = _mask_position(student)
        asked = any(term.sees == "logits" for term in terms.values()) or bool(watched)

        def see(logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Compared:
            answer = teacher(inputs) if teacher is not None and asked else None
            features = {pair: (mine[pair[0]].float(), others[pair[1]].float()) for pair in watched}
            mask = inputs[place].bool() if place is not None and place < len(inputs) else None
            return Compared(logits, answer, target, features, mask)

        training = student.training
        with torch.no_grad():
            inputs = tuple(x.to(device) for x in example_inputs)
            logits = first_tensor(student.eval()(*inputs)).float()
            example = see(logits, inputs, torch.zeros(len(logits), dtype=torch.long, device=device))
        student.train(training)
        if example.teacher is not None and example.teacher.shape != logits.shape:
            raise UserError(
                f"the teacher gives {_shape(example.teacher)} numbers for a sample, the student {_shape(logits)}: "
                "they are of other classes"
            )
        scenes = {name: Scene(options or Options(), bound[name], example, attentions) for name in terms}
        built = Objective(weights, {name: term.make(scenes[name]) for name, term in terms.items()}).to(device)
        built.see = see
        yield built


def _pairs(name: str, term: Term, student: nn.Module, teacher: Teacher | None, given: Mapping[str, str] | None) -> Sequence[Pair]:
    """What a loss compares."""
    if term.sees in ("labels", "logits"):
        return ()
    assert teacher is not None
    found = dict(given or {})
    if not found:
        found = paired_blocks(student, teacher.network)
        found = found if found or term.sees == "attention" else common_stages(student, teacher.network)
    if not found and term.sees == "attention":
        raise UserError(f"the loss {name} compares attentions, and student and teacher have none in blocks that could be paired")
    if not found:
        raise UserError(f"the loss {name} compares layers, and none could be paired by name; say which with pairs")
    return list(found.items())


def _shape(logits: Tensor) -> str:
    return "x".join(map(str, logits.shape[1:]))


def _projections(student: Attention, teacher: Attention) -> list[Pair]:
    return [(student.query, teacher.query), (student.key, teacher.key), (student.value, teacher.value)]


def _mask_position(model: nn.Module) -> int | None:
    """Which input says what is padding."""
    names = list(inspect.signature(model.forward).parameters)
    return names.index("attention_mask") if "attention_mask" in names else None
