"""Scores by an importance of the torch-pruning library, for our groups: its own, or one that somebody wrote for it.

The library's importances walk over a group of (dependency, indices); here such a group is made from ours. Its groups
themselves are not used: they take what they do not know for element-wise, see `docs/conformance.md`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compress.errors import UserError, did_you_mean
from compress.pruning.criteria import CRITERIA, Criterion, Score
from compress.pruning.evidence import Batches, batch_loss, undisturbed, used_batches
from compress.pruning.groups import Group, Member

if TYPE_CHECKING:  # it takes a second to import
    from torch_pruning.importance import Importance


def resolved(criterion: "str | Criterion | Score | Importance") -> "Criterion | Importance":
    """What a criterion stands for: a name, a function from evidence to scores, or itself.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise UserError(f"there is no criterion '{criterion}'." + did_you_mean(criterion, list(CRITERIA)))
        return CRITERIA[criterion]
    if isinstance(criterion, Criterion) or _is_importance(criterion):
        return criterion
    if not callable(criterion):
        known = "a name, a Criterion, a function from evidence to scores, or an importance of torch_pruning"
        raise UserError(f"a criterion is {known}; got a {type(criterion).__name__}")
    return Criterion(criterion)


def _is_importance(criterion: object) -> bool:
    import torch_pruning

    return isinstance(criterion, torch_pruning.importance.Importance)


def library_scores(
    model: nn.Module, groups: Sequence[Group], importance: "Importance", batches: Batches | None = None, *, limit: int = 10
) -> list[Tensor]:
    """The score of every unit by `torch_pruning.importance`, (units,) in float32 for each group; an attention head's is the
    mean of its channels', as in the library.

    Args:
        importance: an object of that module, such as `GroupMagnitudeImportance(p=1)`.
        batches: `(*inputs, target)`, for importances that look at gradients; see `looks_at_gradients`.
        limit: how many of them are used.

    Raises:
        UserError: there is no batch; or the importance gives no score for a group, since it looks at layers that the group
            has not.
    """
    modules = dict(model.named_modules())
    learn = {member.parameter for group in groups for member in group.members} if looks_at_gradients(importance) else set()
    found = []
    with undisturbed(model, learn):
        if learn:
            _accumulate(model, importance, batches, limit)
        for group in groups:
            in_library = _library_group(modules, group)
            score = importance(in_library) if len(in_library) else None
            if score is None:
                problem = f"gives no score for the group of {group.name}; give a criterion instead"
                raise UserError(f"{type(importance).__name__} {problem}")
            found.append(score.detach().float().cpu().reshape(group.units, -1).mean(1))
    return found


def looks_at_gradients(importance: "Importance") -> bool:
    """Whether the importance needs the model's gradients to be there."""
    import torch_pruning

    known = torch_pruning.importance
    return isinstance(importance, known.GroupTaylorImportance | known.GroupHessianImportance) or hasattr(
        importance, "accumulate_grad"
    )


def _accumulate(model: nn.Module, importance: "Importance", batches: Batches | None, limit: int) -> None:
    """Sum gradients of the cross entropy where the importance looks for them."""
    if hasattr(importance, "zero_grad"):
        importance.zero_grad()
    for batch in used_batches(batches, type(importance).__name__, limit):
        batch_loss(model, batch).backward()
        if hasattr(importance, "accumulate_grad"):
            importance.accumulate_grad(model)


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
