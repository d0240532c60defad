"""Gathering what a criterion looks at: weights, and where it asks for them gradients or activations on real batches."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import UserError
from compress.layers import is_transposed_linear
from compress.outputs import first_tensor
from compress.pruning.criteria import Criterion, Evidence, l2
from compress.pruning.groups import Group, Member

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def scores(
    model: nn.Module, groups: Sequence[Group], criterion: Criterion, batches: Batches | None, *, seed: int = 0, limit: int = 10
) -> tuple[list[Tensor], list[str]]:
    """The criterion's score of every unit, (units,) in float32 for each group; and notes on groups that it cannot score.

    These are scored by `l2`: groups that show the criterion nothing, and those whose units all get the same.

    Args:
        batches: `(*inputs, target)` for gradients, `(*inputs,)` for activations; needed if the criterion measures.
        limit: how many of them are used.

    Raises:
        UserError: there is no batch to measure on, or the criterion does not give one finite number per unit.
    """
    source = _Source(model, criterion.measures == "filters", torch.Generator().manual_seed(seed))
    found: list[Tensor | None]
    if criterion.measures == "gradients":
        found = _on_gradients(source, groups, criterion, used_batches(batches, criterion.name, limit))
    else:
        measuring = criterion.measures == "activations"
        watched = _activations(source, groups, used_batches(batches, criterion.name, limit)) if measuring else {}
        found = [_score(criterion, source.evidence(group, watched=watched), group) for group in groups]
    return _completed(source, groups, criterion, found)


def used_batches(batches: Batches | None, criterion: str, limit: int) -> Iterator[tuple[Tensor, ...]]:
    """The first batches, at most `limit`.

    Raises:
        UserError: there is none.
    """
    found = False
    for batch in islice(batches() if batches is not None else (), limit):
        found = True
        yield batch
    if not found:
        raise UserError(f"the criterion {criterion} measures on batches, and there are none; give data, or another criterion")


@contextmanager
def undisturbed(model: nn.Module, learn: Collection[str] = ()) -> Iterator[None]:
    """Eval mode, and gradients for the parameters in `learn` alone; all modes and gradients come back, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    before = [(name, parameter, parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()]
    try:
        model.eval()
        for name, parameter, _, _ in before:
            parameter.requires_grad_(name in learn)
            parameter.grad = None
        yield
    finally:
        for _, parameter, asked, gradient in before:
            parameter.requires_grad_(asked)
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


def batch_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """The mean cross entropy of a batch `(*inputs, target)`, with gradients."""
    device = next(model.parameters()).device
    *inputs, target = batch
    with torch.enable_grad():
        return F.cross_entropy(first_tensor(model(*[x.to(device) for x in inputs])).float(), target.to(device))


class _Lazy(Sequence[Tensor]):
    """Tensors that are made when asked for: those of a large group together would be a copy of the network."""

    def __init__(self, made: Iterable[Callable[[], Tensor]]) -> None:
        self._made = tuple(made)

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, place: Any) -> Any:
        return [make() for make in self._made[place]] if isinstance(place, slice) else self._made[place]()


@dataclass(frozen=True)
class _Watched:
    """Of each input channel of a layer, (channels,): mean absolute value, and share of zeros."""

    size: Tensor
    zeros: Tensor


class _Source:
    """A model's tensors and modules by name, from which evidence is taken, group by group."""

    def __init__(self, model: nn.Module, filters: bool, generator: torch.Generator) -> None:
        self.model, self.filters, self.generator = model, filters, generator
        self.modules, self.tensors = dict(model.named_modules()), dict(model.named_parameters())

    def counted(self, group: Group) -> list[Member]:
        """The group's weights and scales of norms, those that make the channels first."""
        return sorted((m for m in group.members if self._counts(m)), key=lambda m: m.reads)

    def _counts(self, member: Member) -> bool:
        if member.parameter not in self.tensors:
            return False
        scale = isinstance(self.modules[member.layer], NORMS) and member.parameter.endswith("weight")
        return scale or self.tensors[member.parameter].ndim > 1

    def readers(self, group: Group) -> list[Member]:
        """The members whose places are places in the input of a layer that can be watched."""
        return [m for m in group.members if m.reads and _reads_inputs(self.modules[m.layer], m)]

    def evidence(
        self, group: Group, gradients: Mapping[str, Tensor] | None = None, watched: Mapping[str, _Watched] | None = None
    ) -> Evidence:
        counted = self.counted(group)
        makers = [m for m in counted if not m.reads and self.tensors[m.parameter].ndim > 1]
        batch_norms = [m for m in counted if isinstance(self.modules[m.layer], nn.modules.batchnorm._NormBase)]
        readers = [m for m in self.readers(group) if watched and m.layer in watched]
        return Evidence(
            units=group.units,
            weights=_Lazy(partial(_rows, self.tensors[m.parameter], m) for m in counted),
            reads=[m.reads for m in counted],
            filters=_Lazy(partial(_filters, self.tensors[m.parameter], m) for m in makers) if self.filters else [],
            scales=[_rows(self.tensors[m.parameter], m) for m in batch_norms],
            gradients=_Lazy(partial(_rows, gradients[m.parameter], m) for m in counted) if gradients else [],
            activations=[watched[m.layer].size[torch.as_tensor(m.places)].mean(1) for m in readers] if watched else [],
            zeros=[watched[m.layer].zeros[torch.as_tensor(m.places)].mean(1) for m in readers] if watched else [],
            generator=self.generator,
        )


def _rows(tensor: Tensor, member: Member) -> Tensor:
    """(units, numbers): what of the tensor belongs to each unit."""
    places = member.places.ravel()
    chosen = tensor.detach().float()
    if len(places) != chosen.shape[member.dim] or (places != np.arange(len(places))).any():  # else a copy for nothing
        chosen = chosen.index_select(member.dim, torch.as_tensor(places, device=tensor.device))
    return chosen.movedim(member.dim, 0).reshape(len(member.places), -1).cpu()


def _filters(tensor: Tensor, member: Member) -> Tensor:
    """(units, inputs, kernel): a unit of several rows is one matrix, and so is a row without a kernel."""
    places = torch.as_tensor(member.places, device=tensor.device)
    chosen = tensor.detach().float().movedim(member.dim, 0)[places].cpu()  # (units, k, inputs, *kernel)
    kernel = chosen.shape[3:].numel() if tensor.ndim > 2 else 1
    return chosen.reshape(len(places), -1, kernel) if kernel > 1 else chosen.reshape(*places.shape, -1)


def _reads_inputs(module: nn.Module, member: Member) -> bool:
    """Whether places on the weight's axis are places in the layer's input."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.groups == 1
    return (isinstance(module, nn.Linear) and member.dim == 1) or (is_transposed_linear(module) and member.dim == 0)


def _score(criterion: Criterion, evidence: Evidence, group: Group) -> Tensor | None:
    """The criterion's score, if it gives one, of the right form."""
    found = criterion.score(evidence)
    if found is None:
        return None
    if not isinstance(found, Tensor) or found.shape != (group.units,):
        given = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        wanted = f"one score per unit is needed, of shape ({group.units},)"
        raise UserError(f"the criterion {criterion.name} gave {given} for the group of {group.name}; {wanted}")
    if not found.isfinite().all():
        raise UserError(f"the criterion {criterion.name} gave a NaN or an infinity for the group of {group.name}")
    return found.detach().float().cpu()


def _on_gradients(
    source: _Source, groups: Sequence[Group], criterion: Criterion, batches: Iterable[tuple[Tensor, ...]]
) -> list[Tensor | None]:
    """Means of the scores on each batch; None for a group without any."""
    names = list(dict.fromkeys(m.parameter for group in groups for m in source.counted(group)))
    wanted = [source.tensors[name] for name in names]

    def on(batch: tuple[Tensor, ...]) -> list[Tensor | None]:  # a function, so that a batch's gradients go before the next
        loss = batch_loss(source.model, batch)
        found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        gradients = dict(zip(names, found, strict=True))
        return [_score(criterion, source.evidence(group, gradients), group) for group in groups]

    with undisturbed(source.model, set(names)):
        each = [on(batch) for batch in batches]
    return [_mean([score for score in found if score is not None]) for found in zip(*each, strict=True)]


def _mean(scores: Sequence[Tensor]) -> Tensor | None:
    return torch.stack(list(scores)).mean(0) if scores else None


@torch.no_grad()
def _activations(source: _Source, groups: Sequence[Group], batches: Iterable[tuple[Tensor, ...]]) -> dict[str, _Watched]:
    """Means over the calls of each layer that reads one of the groups."""
    model, device = source.model, next(source.model.parameters()).device
    calls: dict[str, int] = defaultdict(int)
    sizes: dict[str, Tensor] = {}
    zeros: dict[str, Tensor] = {}

    def watch(name: str, dim: int) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].movedim(dim, 0).flatten(1).float()
            calls[name] += 1
            sizes[name] = sizes.get(name, 0) + values.abs().mean(1).cpu()
            zeros[name] = zeros.get(name, 0) + (values == 0).float().mean(1).cpu()

        return hook

    layers = {m.layer: source.modules[m.layer] for group in groups for m in source.readers(group)}
    hooks = []
    try:
        for name, module in layers.items():
            dim = 1 if isinstance(module, nn.modules.conv._ConvNd) else -1
            hooks.append(module.register_forward_pre_hook(watch(name, dim)))
        with undisturbed(model):
            for inputs in batches:
                model(*[x.to(device) for x in inputs])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _Watched(sizes[name] / number, zeros[name] / number) for name, number in calls.items()}


def _completed(
    source: _Source, groups: Sequence[Group], criterion: Criterion, found: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[str]]:
    """The scores, with those of `l2` where there are none or all are equal, which would keep the first units; and notes."""
    unseen: dict[int, Tensor] = {}
    level: dict[int, Tensor] = {}
    for place, (group, score) in enumerate(zip(groups, found, strict=True)):
        if score is None or _is_level(score):
            stand_in = l2(source.evidence(group))
            if score is None:
                unseen[place] = stand_in
            elif not _is_level(stand_in):
                level[place] = stand_in
    stand_ins = unseen | level
    others = [score for place, score in enumerate(found) if score is not None and place not in stand_ins]
    usual = torch.cat(others).mean() if others else torch.tensor(1.0)
    if criterion.comparable:  # to be compared with the others, squares of weights have to be about as large
        stand_ins = {place: score * usual / score.mean().clamp_min(_TINY) for place, score in stand_ins.items()}
    notes = []
    for places, problem in ((unseen, "nothing to go by in"), (level, "the same for all channels of")):
        if places:
            names = ", ".join(dict.fromkeys(groups[place].name for place in places))
            notes.append(f"scored by l2 instead, since {criterion.name} finds {problem}: {names}")
    return [stand_ins.get(place, score) for place, score in enumerate(found)], notes  # type: ignore[misc]


_TINY = torch.finfo(torch.float32).tiny


def _is_level(score: Tensor) -> bool:
    """Whether several units all get the same."""
    return len(score) > 1 and bool((score == score[0]).all())
