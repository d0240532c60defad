"""A model as a graph of ATen operators, with batch norm folded into the convolutions before it."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import UserError
from compress.quiet import quiet

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding}
TRANSPOSED_CONVOLUTIONS = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}


def capture(model: nn.Module, example_inputs: tuple[Tensor, ...], dynamic_shapes: Any = None) -> fx.GraphModule:
    """The eval-mode forward of `model` as an fx graph; parameters keep their names.

    Raises:
        UserError: the forward cannot be captured (data-dependent control flow, unsupported Python); names the cause.
    """
    model.eval()
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(model, example_inputs, dynamic_shapes=dynamic_shapes, strict=False)
        captured = program.module(check_guards=False)
    except Exception as error:  # torch.export raises many kinds, some of them plain Exception
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"the forward of {type(model).__name__} cannot be captured by torch.export: {lines[0]}") from error
    assert isinstance(captured, fx.GraphModule)
    # A GraphModule of our own: the one that torch.export gives refuses eval() and train().
    return fx.GraphModule(captured, captured.graph).eval()


def layer_of(node: fx.Node) -> str:
    """The module path that a node came from, such as `layer1.0.conv1`; the node's own name where there is none."""
    stack = node.meta.get("nn_module_stack")
    paths = [path for path, _ in stack.values()] if stack else []
    return paths[-1] if paths and paths[-1] else node.name


def attribute(graph_module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The tensor that a `get_attr` node reads; None for any other node."""
    if node.op != "get_attr":
        return None
    owner: Any = graph_module
    for part in str(node.target).split("."):
        owner = getattr(owner, part)
    return owner if isinstance(owner, Tensor) else None


def set_attribute(graph_module: fx.GraphModule, path: str, value: nn.Parameter) -> None:
    """Put a parameter under a dotted path whose parent module exists."""
    parent, _, leaf = path.rpartition(".")
    owner = graph_module.get_submodule(parent)
    if leaf in owner._buffers:
        del owner._buffers[leaf]
    setattr(owner, leaf, value)


@torch.no_grad()
def fold_batch_norm(graph_module: fx.GraphModule) -> list[str]:
    """Fold every batch norm that directly follows a convolution or linear layer into its weight and bias, in place.

    Gives the names of these layers. A batch norm behind anything else stays, and so does one over sequences, whose channels are
    not the outputs of the linear layer.

    Source: Jacob et al. 2018, section 3.2, equation 14.
    """
    folded = []
    graph = graph_module.graph
    for norm in list(graph.nodes):
        if norm.op != "call_function" or norm.target is not aten.batch_norm.default:
            continue
        conv, gamma_node, beta_node, mean_node, var_node, _training, _momentum, eps = norm.args[:8]
        if not _gives_channels(conv) or len(conv.users) > 1:
            continue
        weight = attribute(graph_module, conv.args[1])
        mean, var = attribute(graph_module, mean_node), attribute(graph_module, var_node)
        if weight is None or mean is None or var is None or len(conv.args[1].users) > 1:
            continue
        gamma = attribute(graph_module, gamma_node) if gamma_node is not None else torch.ones_like(mean)
        beta = attribute(graph_module, beta_node) if beta_node is not None else torch.zeros_like(mean)
        bias_node = conv.args[2] if len(conv.args) > 2 else None
        bias = attribute(graph_module, bias_node) if bias_node is not None else torch.zeros_like(mean)
        assert gamma is not None and beta is not None and bias is not None
        # In float64: gamma / sqrt(var) of a nearly dead channel loses digits otherwise.
        factor = gamma.double() / (var.double() + eps).sqrt()
        new_weight = weight.double() * factor.view(-1, *[1] * (weight.ndim - 1))
        new_bias = (bias.double() - mean.double()) * factor + beta.double()
        weight_path = str(conv.args[1].target)
        bias_path = _folded_bias_path(graph_module, weight_path, bias_node)
        set_attribute(graph_module, weight_path, nn.Parameter(new_weight.to(weight.dtype)))
        set_attribute(graph_module, bias_path, nn.Parameter(new_bias.to(weight.dtype)))
        with graph.inserting_before(conv):
            new_bias_node = graph.get_attr(bias_path)
        new_bias_node.meta = dict(conv.args[1].meta)
        conv.args = (*conv.args[:2], new_bias_node, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        graph.erase_node(norm)
        folded.append(layer_of(conv))
    _drop_unused(graph_module)
    return folded


def _gives_channels(node: fx.Node) -> bool:
    """Whether a node is a layer whose outputs are the channels of a batch norm behind it."""
    if node.target is aten.linear.default:
        return node.meta["val"].ndim == 2
    return node.target in CONVOLUTIONS


def add_bias(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Give a convolution or linear layer that has no bias one of zeros, in place."""
    if len(node.args) > 2 and node.args[2] is not None:
        return
    weight_node = node.args[1]
    assert isinstance(weight_node, fx.Node)
    weight = attribute(graph_module, weight_node)
    assert weight is not None
    path = _folded_bias_path(graph_module, str(weight_node.target), None)
    set_attribute(graph_module, path, nn.Parameter(weight.new_zeros(len(weight))))
    with graph_module.graph.inserting_before(node):
        bias = graph_module.graph.get_attr(path)
    bias.meta = {**weight_node.meta, "val": weight.new_zeros(len(weight))}
    node.args = (*node.args[:2], bias, *node.args[3:])


def _folded_bias_path(graph_module: fx.GraphModule, weight_path: str, bias_node: fx.Node | None) -> str:
    """The old bias's place where nothing else reads it, else a free name beside the weight."""
    if bias_node is not None and len(bias_node.users) == 1:
        return str(bias_node.target)
    parent, _, leaf = weight_path.rpartition(".")
    name = "bias" if leaf == "weight" else f"{leaf}_bias"
    while getattr(graph_module.get_submodule(parent), name, None) is not None:
        name += "_folded"
    return f"{parent}.{name}" if parent else name


def without_writes(graph_module: fx.GraphModule) -> None:
    """Turn operators that write into their input, such as `add_`, into those that give a new tensor, in place.

    A tensor that was overwritten could be neither observed nor trained through afterwards. Writes into a view, and into a
    tensor of which a view is read later, stay: others see them.
    """
    order = {node: number for number, node in enumerate(graph_module.graph.nodes)}
    for node in graph_module.graph.nodes:
        written = node.args[0] if node.args else None
        if node.op != "call_function" or not isinstance(written, fx.Node) or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name, _, overload = str(node.target).removeprefix("aten.").partition(".")
        packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
        if packet is None or overload not in packet.overloads() or _is_view(written):
            continue
        if any(_is_view(user) and any(order[reader] > order[node] for reader in user.users) for user in written.users):
            continue
        node.target = getattr(packet, overload)
        for user in [user for user in written.users if order[user] > order[node]]:
            user.replace_input_with(written, node)
    graph_module.recompile()


def _is_view(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.is_view


def split_silu(graph_module: fx.GraphModule) -> None:
    """Write each SiLU as the product x * sigmoid(x) that it is, in place, so that both halves can run in integers."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in (aten.silu.default, aten.silu_.default):
            with graph_module.graph.inserting_before(node):
                gate = graph_module.graph.call_function(aten.sigmoid.default, (node.args[0],))
                product = graph_module.graph.call_function(aten.mul.Tensor, (node.args[0], gate))
            gate.meta, product.meta = dict(node.meta), dict(node.meta)
            node.replace_all_uses_with(product)
            graph_module.graph.erase_node(node)
    graph_module.recompile()


def _drop_unused(graph_module: fx.GraphModule) -> None:
    """Remove dead nodes, then the parameters and buffers that no node reads any more."""
    graph = graph_module.graph
    graph.eliminate_dead_code()
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    for path, module in list(graph_module.named_modules()):
        for store in (module._parameters, module._buffers):
            for leaf in list(store):
                if (f"{path}.{leaf}" if path else leaf) not in read:
                    del store[leaf]
    graph_module.recompile()
