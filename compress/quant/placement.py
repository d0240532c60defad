"""Where integers go: which tensors of a captured graph get a quantizer, and which of them share one.

What a runtime computes in integers is in `compress.quant.targets`. There an operator runs in integers only between quantized
inputs and a quantized output, and an operator that merely moves or selects values must keep its input's scale, or it is undone.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from compress.quant.graph import aten, attribute, layer_of
from compress.quant.targets import ADDITIONS, EMBEDDINGS, LINEAR, ORT_CPU, WEIGHTED, Target, in_integer_form

# These give out values that went in (or zero), so their output has their input's scale.
KEEPS_VALUES = {
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.unflatten.int,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
    aten.repeat.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.pixel_shuffle.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest2d.default,
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
}
SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int}
PADS = {aten.pad.default, aten.constant_pad_nd.default}


@dataclass
class Placement:
    """Quantizers to insert, decided but not yet made.

    Attributes:
        source: for each node whose output is quantized, the node whose quantizer it uses (often itself).
        readers: for each of them, the nodes that read it quantized. What an integer kernel gives out is quantized for all; of
            any other tensor the float operators read the values as they are, but for those behind a view that is quantized.
        weights: the convolutions and linear layers whose weights are quantized.
        tables: the embeddings whose tables are stored as integers; what they give out is float.
        layers: names of all convolutions, linear layers and embeddings that were looked at.
        left_in_float: layer name -> reason.
    """

    source: dict[fx.Node, fx.Node] = field(default_factory=dict)
    readers: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)
    weights: list[fx.Node] = field(default_factory=list)
    tables: list[fx.Node] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    left_in_float: dict[str, str] = field(default_factory=dict)


def is_float(node: fx.Node) -> bool:
    """Whether a node gives one tensor of real numbers (an attention mask or a shape is not)."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point


def _pads_with_zero(node: fx.Node) -> bool:
    value = node.args[3] if node.target is aten.pad.default and len(node.args) > 3 else 0.0
    mode = node.args[2] if node.target is aten.pad.default and len(node.args) > 2 else "constant"
    if node.target is aten.constant_pad_nd.default and len(node.args) > 2:
        value = node.args[2]
    return mode == "constant" and value in (None, 0, 0.0)


def keeps_values(node: fx.Node) -> bool:
    """Whether a node's output holds only values of the tensor that `moved` gives, or zeros."""
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and node.args[0].target in SPLITS
    return node.target in KEEPS_VALUES or (node.target in PADS and _pads_with_zero(node))


def moved(node: fx.Node) -> fx.Node:
    """The tensor whose values a node that `keeps_values` gives out; of one part of a split, the whole."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return moved(source) if source.target in SPLITS else source


def place(graph_module: fx.GraphModule, skip: Callable[[str], bool] | None = None, target: Target = ORT_CPU) -> Placement:
    """Decide the quantizers for a runtime.

    Args:
        skip: says of a layer's name whether it is to stay in float.
        target: the runtime's table of integer operators.
    """
    placement = Placement()
    graph = graph_module.graph
    integer: set[fx.Node] = set()
    floats: list[fx.Node] = []
    for node in graph.nodes:
        if node.op != "call_function" or not is_float(node):
            continue
        if node.target in WEIGHTED | EMBEDDINGS:
            placement.layers.append(name := layer_of(node))
            weight = weight_of(node)
            if skip is not None and skip(name):
                placement.left_in_float[name] = "left in float by option"
            elif not isinstance(weight, fx.Node) or attribute(graph_module, weight) is None:
                placement.left_in_float[name] = "its weight is computed, not stored"
            elif node.target in EMBEDDINGS:
                placement.tables.append(node)
            elif isinstance(node.args[0], fx.Node) and attribute(graph_module, node.args[0]) is not None:
                placement.left_in_float[name] = "it reads a parameter, not an activation"
            elif node.target not in target.operands:
                placement.left_in_float[name] = _no_kernel(node, target)
            else:
                integer.add(node)
        elif node.target in target.operands and in_integer_form(node):
            operands = target.operands[node.target](node)
            if all(is_float(arg) and attribute(graph_module, arg) is None for arg in operands):
                integer.add(node)
        elif node.target in target.floats:
            floats.append(node)
    _drop_unwanted(integer, placement, target)
    given_in_integers: set[fx.Node] = set()
    operands_of = {node: target.operands[node.target](node) for node in graph.nodes if node in integer}
    for node, operands in operands_of.items():
        if node.target in WEIGHTED:
            placement.weights.append(node)
        for operand in operands:
            _quantize(operand, placement)
        # The kernel of a linear layer can give floats, which spares the logits a rounding; the others cannot.
        *absorbed, last = _given_out(node, target)
        floats = [each for each in floats if each not in (*absorbed, last)]
        if node.target not in LINEAR or any(reader in integer for reader in _readers(node, target)):
            _quantize(last, placement)
        if node.target not in LINEAR:
            given_in_integers.add(last)
    for node in floats:
        placement.left_in_float[_float_name(node)] = _no_kernel(node, target)
    for node in placement.source:
        everything = node in given_in_integers or keeps_values(node)
        placement.readers[node] = [
            user for user in node.users if everything or node in operands_of.get(user, ()) or _moves_quantized(user, placement)
        ]
    return placement


def _moves_quantized(node: fx.Node, placement: Placement) -> bool:
    """Whether a node only moves values, and what it gives out is quantized."""
    if node.target in SPLITS:
        return any(part in placement.source for part in node.users)
    return keeps_values(node) and node in placement.source


def _no_kernel(node: fx.Node, target: Target) -> str:
    form = " in this form" if node.target in target.operands else ""  # a mean over channels, not over pixels
    return f"{target.title} has no integer kernel for {operator_name(node)}{form}"


def _float_name(node: fx.Node) -> str:
    """`gelu in blocks.0.act`, after the module that computes it."""
    module = layer_of(node)
    return f"{operator_name(node)} in {module}" if module != node.name else node.name


def _drop_unwanted(integer: set[fx.Node], placement: Placement, target: Target) -> None:
    """Leave those operators without weights in float that nothing in integers reads, until no more fall away.

    Between two float operators, a quantized addition would only add rounding and two conversions.
    """
    while True:
        unwanted = [
            node
            for node in integer
            if node.target not in WEIGHTED and not any(reader in integer for reader in _readers(node, target))
        ]
        if not unwanted:
            return
        for node in unwanted:
            integer.discard(node)
            if node.target in ADDITIONS:
                placement.left_in_float[addition_name(node)] = "nothing that computes in integers reads it"


def weight_of(node: fx.Node) -> Any:
    """The argument of a convolution, linear layer or embedding that holds its weight."""
    return node.args[0 if node.target in EMBEDDINGS else 1]


def operator_name(node: fx.Node) -> str:
    """What a person calls an ATen operator: `conv_transpose2d`."""
    return str(node.target).removeprefix("aten.").split(".")[0].removesuffix("_")


def addition_name(node: fx.Node) -> str:
    """`add behind LAYER`, after the convolution or linear layer that its first operand comes from, or else its second.

    The exporter knows no module for an addition; `onnx_rewrites.names` finds the same name in the ONNX graph.
    """
    for before in node.args[:2]:
        while isinstance(before, fx.Node) and before.target not in WEIGHTED | ADDITIONS and before.args:
            before = before.args[0]
        if isinstance(before, fx.Node) and before.target in WEIGHTED:
            return f"add behind {layer_of(before)}"
    return node.name


def _readers(node: fx.Node, target: Target) -> list[fx.Node]:
    """The operators that read a node's value, seen through what is absorbed and through what only moves values."""
    found = []
    for user in node.users:
        seen_through = user.target in target.absorbed | SPLITS or keeps_values(user)
        found += _readers(user, target) if seen_through else [user]
    return found


def _given_out(node: fx.Node, target: Target) -> list[fx.Node]:
    """The node and the operators that its kernel absorbs, the last of which is quantized in place of the others."""
    found = [node]
    while len(node.users) == 1 and next(iter(node.users)).target in target.absorbed:
        found.append(node := next(iter(node.users)))
    return found


def _quantize(node: fx.Node, placement: Placement) -> fx.Node:
    """Give a node's output a quantizer, shared with its input where it only moves values; returns the quantizer's owner."""
    if node in placement.source:
        return placement.source[node]
    source = node
    if keeps_values(node):
        source = _quantize(moved(node), placement)
    placement.source[node] = source
    return source
