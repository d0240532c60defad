"""Where integers go: which tensors of a captured graph get a quantizer, and which of them share one.

The table is that of ONNX Runtime's CPU provider: an operator computes in integers there only between quantized inputs and
a quantized output, and an operator that merely moves or selects values must keep its input's scale, or it is undone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import fx

from compress.quant.graph import CONVOLUTIONS, aten, attribute, layer_of

LINEAR = {aten.linear.default}
ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}
AVERAGE_POOLS = {aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default, aten.mean.dim}
WEIGHTED = CONVOLUTIONS | LINEAR

# A ReLU costs nothing behind an operator with a quantized output: the zero point clips as it does.
CLIPS = {
    aten.relu.default,
    aten.relu_.default,
    aten.relu6.default,
    aten.relu6_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.clamp.default,
    aten.clamp_.default,
}

# These give out values that went in (or zero), so their output has their input's scale.
KEEPS_VALUES = {
    aten.max_pool2d.default,
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.contiguous.default,
    aten.clone.default,
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
}
PADS = {aten.pad.default, aten.constant_pad_nd.default}


@dataclass
class Placement:
    """Quantizers to insert, decided but not yet made.

    Attributes:
        source: for each node whose output is quantized, the node whose quantizer it uses (often itself).
        weights: the convolutions and linear layers whose weights are quantized.
        layers: names of all convolutions and linear layers that were looked at.
        left_in_float: layer name -> reason.
    """

    source: dict[fx.Node, fx.Node] = field(default_factory=dict)
    weights: list[fx.Node] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    left_in_float: dict[str, str] = field(default_factory=dict)


def is_float(node: fx.Node) -> bool:
    """Whether a node gives one tensor of real numbers (an attention mask or a shape is not)."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point


def _has_integer_kernel(node: fx.Node) -> bool:
    """Whether an average has an integer kernel: over windows, or over all pixels, exported as GlobalAveragePool."""
    value = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    if not isinstance(value, torch.Tensor) or value.ndim != 4:
        return False
    if node.target is aten.mean.dim:
        return sorted(int(dim) % 4 for dim in node.args[1]) == [2, 3]  # type: ignore[union-attr, arg-type]
    if node.target is aten.adaptive_avg_pool2d.default:
        return all(int(size) == 1 for size in node.args[1])  # type: ignore[union-attr, arg-type]
    return node.target is aten.avg_pool2d.default


def _pads_with_zero(node: fx.Node) -> bool:
    value = node.args[3] if node.target is aten.pad.default and len(node.args) > 3 else 0.0
    mode = node.args[2] if node.target is aten.pad.default and len(node.args) > 2 else "constant"
    if node.target is aten.constant_pad_nd.default and len(node.args) > 2:
        value = node.args[2]
    return mode == "constant" and value in (None, 0, 0.0)


def keeps_values(node: fx.Node) -> bool:
    """Whether a node's output holds only values of its first input, or zeros."""
    return node.target in KEEPS_VALUES or (node.target in PADS and _pads_with_zero(node))


def _operands(node: fx.Node) -> list[fx.Node]:
    """The activations that an integer operator reads."""
    count = 2 if node.target in ADDITIONS else 1
    return [arg for arg in node.args[:count] if isinstance(arg, fx.Node)]


def place(graph_module: fx.GraphModule, skip: Callable[[str], bool] | None = None) -> Placement:
    """Decide the quantizers for ONNX Runtime's CPU provider.

    Args:
        skip: says of a layer's name whether it is to stay in float.
    """
    placement = Placement()
    graph = graph_module.graph
    integer: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or not is_float(node):
            continue
        name = layer_of(node)
        if node.target in WEIGHTED:
            placement.layers.append(name)
            if skip is not None and skip(name):
                placement.left_in_float[name] = "left in float by option"
            elif not isinstance(node.args[1], fx.Node) or attribute(graph_module, node.args[1]) is None:
                placement.left_in_float[name] = "its weight is computed, not stored"
            else:
                integer.add(node)
        elif node.target in ADDITIONS:
            operands = _operands(node)
            constant = any(attribute(graph_module, arg) is not None for arg in operands)
            plain = len(node.args) == 2 and not node.kwargs  # `alpha` is exported as a multiplication of its own
            if len(operands) == 2 and all(is_float(arg) for arg in operands) and not constant and plain:
                integer.add(node)
        elif node.target in AVERAGE_POOLS and _has_integer_kernel(node):
            integer.add(node)
    _drop_unwanted_additions(integer, placement)
    for node in graph.nodes:
        if node not in integer:
            continue
        if node.target in WEIGHTED:
            placement.weights.append(node)
        for operand in _operands(node):
            _quantize(operand, placement)
        # The kernel of a linear layer can give floats, which spares the logits a rounding; the others cannot.
        if node.target not in LINEAR or any(reader in integer for reader in _readers(node)):
            _quantize(_last_clip(node), placement)
    return placement


def _drop_unwanted_additions(integer: set[fx.Node], placement: Placement) -> None:
    """Leave those additions and pools in float that nothing in integers reads, until no more fall away.

    Between two float operators, a quantized addition would only add rounding and two conversions.
    """
    while True:
        unwanted = [
            node for node in integer if node.target not in WEIGHTED and not any(reader in integer for reader in _readers(node))
        ]
        if not unwanted:
            return
        for node in unwanted:
            integer.discard(node)
            if node.target in ADDITIONS:
                placement.left_in_float[addition_name(node)] = "nothing that computes in integers reads it"


def addition_name(node: fx.Node) -> str:
    """`add behind LAYER`, after the convolution or linear layer that its first operand comes from.

    The exporter knows no module for an addition; `onnx_rewrites.names` finds the same name in the ONNX graph.
    """
    before = node.args[0]
    while isinstance(before, fx.Node) and before.target not in WEIGHTED | ADDITIONS and before.args:
        before = before.args[0]
    found = isinstance(before, fx.Node) and before.target in WEIGHTED
    return f"add behind {layer_of(before)}" if found and isinstance(before, fx.Node) else node.name


def _readers(node: fx.Node) -> list[fx.Node]:
    """The operators that read a node's value, seen through clips and through what only moves values."""
    found = []
    for user in node.users:
        found += _readers(user) if user.target in CLIPS or keeps_values(user) else [user]
    return found


def _last_clip(node: fx.Node) -> fx.Node:
    """The node whose output is quantized in place of `node`'s own: the clip behind it, where that is its only reader."""
    while len(node.users) == 1 and next(iter(node.users)).target in CLIPS:
        node = next(iter(node.users))
    return node


def _quantize(node: fx.Node, placement: Placement) -> fx.Node:
    """Give a node's output a quantizer, shared with its input where it only moves values; returns the quantizer's owner."""
    if node in placement.source:
        return placement.source[node]
    source = node
    if keeps_values(node) and isinstance(node.args[0], fx.Node):
        source = _quantize(node.args[0], placement)
    placement.source[node] = source
    return source
