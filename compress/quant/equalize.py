"""Cross-layer equalization: weights of neighbouring layers get alike ranges, and the network computes what it did."""

from dataclasses import dataclass

import torch
from torch import fx

from compress.quant.graph import aten
from compress.quant.parameters import (
    LAYERS,
    bias_of,
    channel_axis,
    groups_of,
    has_own_parameters,
    input_ranges,
    parameter,
    scale_inputs,
    scale_outputs,
    store,
)
from compress.quant.placement import PADS, keeps_values

# f(s x) = s f(x) for every s > 0, value by value. ReLU6 is not among them.
SCALE_WITH_INPUT = {
    aten.relu.default,
    aten.relu_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.dropout.default,
    aten.dropout_.default,
    aten.contiguous.default,
    aten.clone.default,
}
POOLS = {aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default}
# Sweeps over all pairs end when no factor is farther from 1 than this share; a chain of layers needs several.
CONVERGED, MOST_SWEEPS = 1e-3, 50


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing between them that minds a positive factor on a channel.

    Attributes:
        first, second: convolutions or linear layers whose parameters nobody else reads.
        repeats: how many inputs of `second` in a row come from one output of `first`; above 1 behind a flatten.
    """

    first: fx.Node
    second: fx.Node
    repeats: int = 1


@torch.no_grad()
def equalize_(graph_module: fx.GraphModule) -> list[Pair]:
    """Scale the channels between layers so that both weights have equal ranges there, in place; gives the pairs.

    Output channel i of the first layer is divided by s_i and input channel i of the second multiplied by it, where
    s_i = sqrt(max|W1_i| / max|W2_i|); over all pairs in turn until nothing moves. The graph is a folded one, in float; what it
    computes stays the same but for rounding. Channels that are zero on either side are left alone.

    Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1.
    """
    pairs = find_pairs(graph_module)
    for _ in range(MOST_SWEEPS):
        if max((_equalize_pair(graph_module, pair) for pair in pairs), default=0.0) < CONVERGED:
            break
    return pairs


def find_pairs(graph_module: fx.GraphModule) -> list[Pair]:
    """All pairs of a folded graph, in the order of its nodes."""
    pairs = [_pair_from(graph_module, node) for node in graph_module.graph.nodes if has_own_parameters(graph_module, node)]
    return [pair for pair in pairs if pair is not None]


def _pair_from(graph_module: fx.GraphModule, first: fx.Node) -> Pair | None:
    """The pair that `first` begins: follows its channels, through single readers, to the next layer."""
    axis, repeats, node = _axis_from_front(graph_module, first), 1, first
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        if node.target in LAYERS:
            fits = has_own_parameters(graph_module, node) and axis == _axis_from_front(graph_module, node)
            return Pair(first, node, repeats) if fits else None
        if _flattens(node, before, axis):
            repeats *= torch.Size(before.meta["val"].shape[2:]).numel()
        elif not (node.target in SCALE_WITH_INPUT or _works_on_pixels(node, before, axis)):
            return None
    return None


def _axis_from_front(graph_module: fx.GraphModule, layer: fx.Node) -> int:
    return layer.meta["val"].ndim + channel_axis(graph_module, layer)


def _flattens(node: fx.Node, before: fx.Node, axis: int) -> bool:
    """Whether a node makes (batch, channels * pixels) of (batch, channels, ...)."""
    last = before.meta["val"].ndim - 1
    return node.target is aten.flatten.using_ints and axis == 1 and tuple(node.args[1:]) in ((1,), (1, -1), (1, last))


def _works_on_pixels(node: fx.Node, before: fx.Node, axis: int) -> bool:
    """Whether a node pools or pads (batch, channels, ...) with zeros, each channel by itself."""
    ndim = before.meta["val"].ndim
    if axis != 1:
        return False
    if node.target is aten.mean.dim:
        return all(int(dim) % ndim > axis for dim in node.args[1])  # type: ignore[union-attr, arg-type]
    if node.target in PADS:
        return keeps_values(node) and len(node.args[1]) <= 2 * (ndim - 2)  # type: ignore[arg-type]
    return ndim == 4 and node.target in POOLS


def _equalize_pair(graph_module: fx.GraphModule, pair: Pair) -> float:
    """One step for one pair; gives the largest |log s|."""
    weight, bias, second = pair.first.args[1], bias_of(pair.first), pair.second.args[1]
    groups = groups_of(pair.second)
    outputs = parameter(graph_module, weight).flatten(1).abs().amax(1).double()
    inputs = input_ranges(parameter(graph_module, second), groups).view(-1, pair.repeats).amax(1).double()
    factors = torch.where((outputs > 0) & (inputs > 0), (outputs / inputs).sqrt(), 1.0)
    for node in (weight, bias):
        if node is not None:
            store(graph_module, node, scale_outputs(parameter(graph_module, node), 1 / factors))
    repeated = factors.repeat_interleave(pair.repeats)
    store(graph_module, second, scale_inputs(parameter(graph_module, second), repeated, groups))
    return float(factors.log().abs().max())
