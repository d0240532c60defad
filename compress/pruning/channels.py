"""Taking whole channels out of a network, with everything that is coupled to them."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from compress.outputs import tensors

PRUNABLE = (nn.modules.conv._ConvNd, nn.Linear)


def output_layers(graph: Any) -> list[nn.Module]:
    """The convolutions and linear layers whose channels are the model's outputs, found by walking back from the outputs.

    `graph` is torch-pruning's dependency graph, built. Cutting one of these would change what the model answers.
    """
    found: list[nn.Module] = []
    waiting = [node for node in graph.module2node.values() if not node.outputs]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if isinstance(node.module, PRUNABLE):
            found.append(node.module)
            continue
        for before in node.inputs:
            if before not in seen:
                seen.add(before)
                waiting.append(before)
    return found


def prune_channels_(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    ratio: float,
    round_to: int = 8,
    exclude: Sequence[str] = (),
) -> dict[str, tuple[int, int]]:
    """Remove, in place, the channels of each group whose weights have the smallest L2 norm.

    A group is a set of layers whose channels must go together: a convolution, its batch norm, the layers it is added to,
    and the inputs of their readers. Every group loses the same share; output layers are never cut.

    Args:
        ratio: share of the channels of each group to remove, in (0, 1). Parameters and MACs fall by about 1-(1-ratio)^2.
        round_to: what is left is a multiple of this, where the group has as many channels.
        exclude: shell patterns of layer names to leave alone.

    Gives the layers whose output channels changed: name -> (before, after).

    Sources: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", section 3 (groups; the library torch-pruning);
    Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1 (norms of filters).
    """
    import torch_pruning

    device = next(model.parameters()).device
    inputs = tuple(x[:1].to(device) for x in example_inputs)
    names = {module: name for name, module in model.named_modules()}
    before = {name: _width(module) for module, name in names.items() if isinstance(module, PRUNABLE)}
    excluded = [module for module, name in names.items() if any(fnmatchcase(name, pattern) for pattern in exclude)]
    model.eval()
    frozen = [p for p in model.parameters() if not p.requires_grad]
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # the groups are found by following gradients
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(
            model, inputs, output_transform=lambda output: list(tensors(output).values()), verbose=False
        )
        ignored = [m for m in (*output_layers(graph), *excluded) if isinstance(m, PRUNABLE)]
        pruner = torch_pruning.pruner.BasePruner(
            model,
            inputs,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            round_to=round_to,
            ignored_layers=ignored,
            output_transform=lambda output: list(tensors(output).values()),
        )
        pruner.step()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    after = {name: _width(module) for name, module in model.named_modules() if isinstance(module, PRUNABLE)}
    return {name: (width, after[name]) for name, width in before.items() if after.get(name, width) != width}


def _width(module: nn.Module) -> int:
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]
