"""SmoothQuant: outliers in the channels of an activation move into the weights that read it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from compress.outputs import in_batches
from compress.quant.graph import aten
from compress.quant.parameters import has_own_parameters, input_ranges, parameter, reads_alone, scale_inputs, store

# May stand between a norm and a linear layer, as long as the last axis, that of the channels, stays the last and whole.
BETWEEN = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.transpose.int,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.unsqueeze.default,
}


@dataclass(frozen=True)
class Smoothable:
    """A layer norm with scale and shift, and the linear layers that are all its readers."""

    norm: fx.Node
    readers: tuple[fx.Node, ...]


@torch.no_grad()
def smooth_(graph_module: fx.GraphModule, batches: Iterable[tuple[Tensor, ...]], alpha: float) -> list[Smoothable]:
    """Divide each channel of a layer norm's output by s and multiply its weights by s, in place; gives the places.

    s = max|X|^alpha / max|W|^(1 - alpha) for each channel, X over the batches and W over all layers that read it. The graph is
    a folded one, in float; what it computes stays the same but for rounding. Channels that are zero are left alone.

    Args:
        alpha: in (0, 1): how much of the outliers moves; 0.5 leaves activation and weights with equal ranges.
        batches: of inputs.

    Source: Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
    section 4, equation 4.
    """
    found = find_smoothable(graph_module)
    largest = _Largest(graph_module, [place.norm for place in found])
    for batch in batches if found else ():
        for part in in_batches(graph_module, batch):
            largest.run(*part)
    return [place for place in found if place.norm in largest.of and _move(graph_module, place, largest.of[place.norm], alpha)]


def find_smoothable(graph_module: fx.GraphModule) -> list[Smoothable]:
    """All places of a folded graph, in the order of its nodes."""
    found = []
    for norm in graph_module.graph.nodes:
        if norm.target is not aten.layer_norm.default or len(norm.args) < 4 or len(norm.args[1]) != 1:
            continue
        readers = list(dict.fromkeys(_readers(norm)))
        linear = all(reader.target is aten.linear.default and has_own_parameters(graph_module, reader) for reader in readers)
        if readers and linear and all(reads_alone(graph_module, part) for part in norm.args[2:4]):
            found.append(Smoothable(norm, tuple(readers)))
    return found


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """What reads a node's channels, behind operators that leave them alone."""
    for user in node.users:
        if user.target in BETWEEN and _keeps_last_axis(user):
            yield from _readers(user)
        else:
            yield user


def _keeps_last_axis(node: fx.Node) -> bool:
    """Whether the last axis of what comes out is the one that went in; for a reshape its length says so."""
    assert isinstance(node.args[0], fx.Node)
    before, after = node.args[0].meta["val"], node.meta["val"]
    last = before.ndim - 1
    if node.target is aten.transpose.int:
        return all(int(dim) % before.ndim != last for dim in node.args[1:])  # type: ignore[arg-type]
    if node.target is aten.permute.default:
        return int(node.args[1][-1]) % before.ndim == last  # type: ignore[index, arg-type]
    if node.target in (aten.select.int, aten.slice.Tensor):
        return (int(node.args[1]) if len(node.args) > 1 else 0) % before.ndim != last  # type: ignore[arg-type]
    if node.target is aten.unsqueeze.default:
        return int(node.args[1]) % after.ndim != after.ndim - 1  # type: ignore[arg-type]
    return bool(after.shape[-1] == before.shape[-1])


class _Largest(fx.Interpreter):
    """Runs the graph and keeps the largest magnitude of each channel, the last axis, of some of its nodes."""

    def __init__(self, graph_module: fx.GraphModule, watched: list[fx.Node]) -> None:
        super().__init__(graph_module)
        self.watched = set(watched)
        self.of: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.watched:
            largest = result.abs().flatten(0, -2).amax(0)
            self.of[n] = torch.maximum(self.of[n], largest) if n in self.of else largest
        return result


def _move(graph_module: fx.GraphModule, place: Smoothable, activations: Tensor, alpha: float) -> bool:
    """Scale one place; false where no channel could be."""
    weights = [parameter(graph_module, reader.args[1]) for reader in place.readers]
    of_weights = torch.stack([input_ranges(weight) for weight in weights]).amax(0).double()
    factors = activations.double() ** alpha / of_weights ** (1 - alpha)
    usable = (activations > 0) & (of_weights > 0)
    factors = torch.where(usable, factors, 1.0)
    for node in place.norm.args[2:4]:
        store(graph_module, node, parameter(graph_module, node).double() / factors)
    for reader, weight in zip(place.readers, weights, strict=True):
        store(graph_module, reader.args[1], scale_inputs(weight, factors))
    return bool(usable.any())
