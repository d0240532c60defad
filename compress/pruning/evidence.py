"""Gathering what a criterion looks at: weights, and where it asks for them gradients or activations on real batches."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.outputs import first_tensor
from compress.pruning.criteria import Criterion, Evidence
from compress.pruning.groups import Group, Member

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def scores(
    model: nn.Module, groups: Sequence[Group], criterion: Criterion, batches: Batches | None, *, seed: int = 0, limit: int = 10
) -> list[Tensor]:
    """The criterion's score of every unit, (units,) in float32 for each group.

    Args:
        batches: `(*inputs, target)` for gradients, `(*inputs,)` for activations; needed if the criterion measures.
        limit: how many of them are used.
    """
    gradients: dict[str, tuple[Tensor, Tensor]] = {}
    watched: dict[str, tuple[Tensor, Tensor]] = {}
    if criterion.needs_batches:
        assert batches is not None
        used = list(islice(batches(), limit))
        if criterion.measures == "gradients":
            gradients = _gradients(model, used)
        else:
            watched = _activations(model, used)
    generator = torch.Generator().manual_seed(seed)
    gather = partial(_evidence, model, criterion, gradients, watched, generator)
    return [criterion.score(gather(group)) for group in groups]


def _rows(tensor: Tensor, member: Member) -> Tensor:
    """(units, numbers): what of the tensor belongs to each unit."""
    places = member.places.ravel()
    chosen = tensor.detach().float()
    if len(places) != chosen.shape[member.dim] or (places != np.arange(len(places))).any():  # else a copy for nothing
        chosen = chosen.index_select(member.dim, torch.as_tensor(places, device=tensor.device))
    return chosen.movedim(member.dim, 0).reshape(len(member.places), -1).cpu()


def _evidence(
    model: nn.Module,
    criterion: Criterion,
    gradients: dict[str, tuple[Tensor, Tensor]],
    watched: dict[str, tuple[Tensor, Tensor]],
    generator: torch.Generator,
    group: Group,
) -> Evidence:
    modules, tensors = dict(model.named_modules()), dict(model.named_parameters())
    norms = {m.parameter for m in group.members if isinstance(modules[m.layer], NORMS) and m.parameter.endswith("weight")}
    counted = [m for m in group.members if m.parameter in tensors and (m.parameter in norms or tensors[m.parameter].ndim > 1)]
    counted.sort(key=lambda m: m.reads)
    makers = [m for m in counted if not m.reads and tensors[m.parameter].ndim > 1]
    batch_norms = [m for m in counted if isinstance(modules[m.layer], nn.modules.batchnorm._NormBase)]
    readers = [m for m in group.members if m.reads and m.layer in watched and _reads_inputs(modules[m.layer], m)]
    return Evidence(
        weights=[_rows(tensors[m.parameter], m) for m in counted],
        filters=[_filters(tensors[m.parameter], m) for m in makers] if criterion.measures == "filters" else [],
        scales=[_rows(tensors[m.parameter], m) for m in batch_norms],
        gradients=[_rows(gradients[m.parameter][0], m) for m in counted] if gradients else [],
        squared_gradients=[_rows(gradients[m.parameter][1], m) for m in counted] if gradients else [],
        activations=[watched[m.layer][0][torch.as_tensor(m.places)].mean(1) for m in readers],
        zeros=[watched[m.layer][1][torch.as_tensor(m.places)].mean(1) for m in readers],
        generator=generator,
    )


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
    return isinstance(module, nn.Linear) and member.dim == 1


def _gradients(model: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and mean square, over the batches, of the cross entropy's gradient; in eval mode, the model is left as it was."""
    device = next(model.parameters()).device
    found = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    parameters = dict(model.named_parameters())
    asked = {name: p.requires_grad for name, p in parameters.items()}
    model.eval().requires_grad_(True)
    try:
        for *inputs, target in batches:
            with torch.enable_grad():
                loss = F.cross_entropy(first_tensor(model(*[x.to(device) for x in inputs])).float(), target.to(device))
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for (first, second), gradient in zip(found.values(), gradients, strict=True):
                if gradient is not None:
                    first += gradient / len(batches)
                    second += gradient.square() / len(batches)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(asked[name])
    return found


@torch.no_grad()
def _activations(model: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each convolution and linear layer: mean absolute value and share of zeros of every input channel."""
    device = next(model.parameters()).device
    sums: dict[str, list[Tensor]] = defaultdict(list)
    nothing: dict[str, list[Tensor]] = defaultdict(list)

    def watch(name: str, dim: int) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].movedim(dim, 0).flatten(1).float()
            sums[name].append(values.abs().mean(1).cpu())
            nothing[name].append((values == 0).float().mean(1).cpu())

        return hook

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]
    hooks = [m.register_forward_pre_hook(watch(n, -1 if isinstance(m, nn.Linear) else 1)) for n, m in layers]
    try:
        for inputs in batches:
            model.eval()(*[x.to(device) for x in inputs])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (torch.stack(sums[name]).mean(0), torch.stack(nothing[name]).mean(0)) for name in sums}
