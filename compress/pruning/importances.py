"""Scores by an importance of the torch-pruning library, for our groups: its own, or one that somebody wrote for it.

The library's importances walk over a group of (dependency, indices); here such a group is made from ours. Its groups
themselves are not used: they take what they do not know for element-wise, see `docs/conformance.md`.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.outputs import first_tensor
from compress.pruning.evidence import Batches
from compress.pruning.groups import Group, Member


def library_scores(
    model: nn.Module, groups: Sequence[Group], importance: Any, batches: Batches | None = None, *, limit: int = 10
) -> list[Tensor]:
    """The score of every unit by `torch_pruning.importance`, (units,) in float32 for each group.

    Args:
        importance: an object of that module, such as `GroupMagnitudeImportance(p=1)`.
        batches: `(*inputs, target)`, for importances that look at gradients; see `looks_at_gradients`.
        limit: how many of them are used.

    Raises:
        ValueError: the importance gives no score for a group, since it looks at layers that the group has not.
    """
    if looks_at_gradients(importance):
        assert batches is not None
        _accumulate(model, importance, islice(batches(), limit))
    modules = dict(model.named_modules())
    found = []
    for group in groups:
        in_library = _library_group(modules, group)
        score = importance(in_library) if len(in_library) else None
        if score is None:
            raise ValueError(f"{type(importance).__name__} gives no score for the group of {group.name}")
        found.append(score.detach().float().cpu().reshape(group.units, -1).sum(1))  # a unit is as important as its channels
    model.zero_grad(set_to_none=True)
    return found


def looks_at_gradients(importance: Any) -> bool:
    """Whether the importance needs the model's gradients to be there."""
    import torch_pruning

    known = torch_pruning.importance
    return isinstance(importance, known.GroupTaylorImportance | known.GroupHessianImportance) or hasattr(
        importance, "accumulate_grad"
    )


def _accumulate(model: nn.Module, importance: Any, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Sum gradients of the cross entropy where the importance looks for them."""
    device = next(model.parameters()).device
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    model.eval().requires_grad_(True)
    model.zero_grad(set_to_none=True)
    if hasattr(importance, "zero_grad"):
        importance.zero_grad()
    for *inputs, target in batches:
        with torch.enable_grad():
            F.cross_entropy(first_tensor(model(*[x.to(device) for x in inputs])).float(), target.to(device)).backward()
        if hasattr(importance, "accumulate_grad"):
            importance.accumulate_grad(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(asked[name])


def _library_group(modules: dict[str, nn.Module], group: Group) -> Any:
    """Our group in the library's form; layers that it has no pruning function for are left out."""
    import torch_pruning
    from torch_pruning import _helpers
    from torch_pruning.dependency.dependency import Dependency
    from torch_pruning.dependency.node import Node

    made = torch_pruning.dependency.Group()
    width = 0
    for member in sorted(group.members, key=lambda member: member.reads):
        module = modules[member.layer]
        function = _function(module, member) if member.parameter.endswith("weight") else None
        if function is None:
            continue
        node = Node(module, None, member.layer)
        item = _helpers.GroupItem(Dependency(function, function, source=node, target=node), member.places.ravel().tolist())
        units, own = member.places.shape
        width = width or own  # the first layer is the library's root, whose channels all others are counted in
        item.root_idxs = [unit * width + place * width // own for unit in range(units) for place in range(own)]
        made._group.append(item)
    return made


def _function(module: nn.Module, member: Member) -> Any:
    import torch_pruning as library

    if isinstance(module, nn.modules.conv._ConvNd):
        depthwise = module.groups == module.out_channels and module.groups > 1
        if member.reads:
            return library.prune_conv_in_channels
        return library.prune_depthwise_conv_out_channels if depthwise else library.prune_conv_out_channels
    if isinstance(module, nn.Linear):
        return library.prune_linear_in_channels if member.reads else library.prune_linear_out_channels
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return library.prune_batchnorm_out_channels
    return library.prune_layernorm_out_channels if isinstance(module, nn.LayerNorm) else None
