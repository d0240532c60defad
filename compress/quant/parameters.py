"""The stored weights and biases of a captured graph's layers: who reads them, and their input channels."""

import torch
from torch import Tensor, fx, nn

from compress.quant.fake_quantize import WeightQuantizer
from compress.quant.graph import CONVOLUTIONS, aten, attribute, set_attribute

# Layers whose weights are (outputs, inputs / groups, ...).
LAYERS = CONVOLUTIONS | {aten.linear.default}


def parameter(graph_module: fx.GraphModule, node: object) -> Tensor:
    """The tensor that a node reads from the module, itself or through its weight quantizer."""
    assert isinstance(node, fx.Node)
    value = attribute(graph_module, node.args[0] if node.op == "call_module" else node)  # type: ignore[arg-type]
    assert value is not None, node
    return value


def store(graph_module: fx.GraphModule, node: object, value: Tensor) -> None:
    """Replace the parameter that a `get_attr` node reads, in the type of the old one; a tensor tied to it stays as it is."""
    old = parameter(graph_module, node)
    assert isinstance(node, fx.Node)
    set_attribute(graph_module, str(node.target), nn.Parameter(value.to(old.dtype)))


def bias_of(layer: fx.Node) -> fx.Node | None:
    """The node of a layer's bias; None where it has none."""
    bias = layer.args[2] if len(layer.args) > 2 else None
    return bias if isinstance(bias, fx.Node) else None


def weight_quantizer(graph_module: fx.GraphModule, layer: fx.Node) -> WeightQuantizer | None:
    """The quantizer of a layer's weight; None for any other node, and for a layer in float."""
    if layer.op != "call_function" or layer.target not in LAYERS:
        return None
    weight = layer.args[1]
    found = graph_module.get_submodule(str(weight.target)) if isinstance(weight, fx.Node) and weight.op == "call_module" else None
    return found if isinstance(found, WeightQuantizer) else None


def reads_alone(graph_module: fx.GraphModule, node: object) -> bool:
    """Whether a parameter's node has one reader, and no other node reads the same parameter."""
    if not isinstance(node, fx.Node) or attribute(graph_module, node) is None:
        return False
    readers = [
        user
        for other in graph_module.graph.nodes
        if other.op == "get_attr" and other.target == node.target
        for user in other.users
    ]
    return len(readers) == 1


def has_own_parameters(graph_module: fx.GraphModule, layer: fx.Node) -> bool:
    """Whether a node of a folded graph is a layer with a stored weight, and a bias if any, that no other node reads."""
    if layer.op != "call_function" or layer.target not in LAYERS:
        return False
    return all(reads_alone(graph_module, part) for part in (layer.args[1], bias_of(layer)) if part is not None)


def groups_of(layer: fx.Node) -> int:
    """The groups of a convolution; 1 for a linear layer."""
    return int(layer.args[6]) if layer.target in CONVOLUTIONS and len(layer.args) > 6 else 1  # type: ignore[arg-type]


def channel_axis(graph_module: fx.GraphModule, layer: fx.Node) -> int:
    """Where the channels are in a layer's input and output, counted from the end: -1 for a linear layer."""
    return -1 if layer.target not in CONVOLUTIONS else 1 - parameter(graph_module, layer.args[1]).ndim


def input_ranges(weight: Tensor, groups: int = 1) -> Tensor:
    """(inputs,): the largest magnitude of a weight (outputs, inputs / groups, ...) for each input channel."""
    return _by_input(weight, groups).abs().amax((1, 3)).flatten()


def scale_inputs(weight: Tensor, factors: Tensor, groups: int = 1) -> Tensor:
    """A weight (outputs, inputs / groups, ...), in float64, with each input channel times its factor (inputs,)."""
    return (_by_input(weight.double(), groups) * factors.view(groups, 1, -1, 1)).view_as(weight)


def scale_outputs(weight: Tensor, factors: Tensor) -> Tensor:
    """A weight (outputs, ...) or bias (outputs,), in float64, with each output channel times its factor (outputs,)."""
    return weight.double() * factors.view(-1, *[1] * (weight.ndim - 1))


def _by_input(weight: Tensor, groups: int) -> Tensor:
    """(groups, outputs / groups, inputs / groups, kernel)."""
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], torch.Size(weight.shape[2:]).numel())
