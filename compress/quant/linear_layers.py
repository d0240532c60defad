"""Where quantizers go that need no calibration: on linear layers and embeddings, and on nothing else."""

from torch import fx, nn

from compress.quant.graph import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, aten, attribute, layer_of, set_attribute
from compress.quant.parameters import reads_alone
from compress.quant.placement import Placement, is_float, weight_of
from compress.quant.scheme import Scheme
from compress.quant.targets import EMBEDDINGS, LINEAR, WEIGHTED

CONVOLUTION_STAYS = {
    "dynamic": "ONNX Runtime's ConvInteger is slower than a convolution in float; the pass int8 takes it",
    "float": "weight_only takes linear layers and embeddings; the pass int8 takes it",
}


def products_as_linear(graph_module: fx.GraphModule) -> None:
    """Write each product by a stored weight (inputs, outputs) as a linear layer, in place.

    Such are addmm(bias, x, weight), GPT-2's `Conv1D`, and `x @ weight`, CLIP's projections. The weight is stored transposed
    from there on; one that is read elsewhere, too, stays.
    """
    for node in graph_module.graph.nodes:
        if node.target is aten.addmm.default and not node.kwargs:
            bias, x, holder = node.args
        elif node.target in (aten.matmul.default, aten.mm.default):
            bias, (x, holder) = None, node.args
        else:
            continue
        if not reads_alone(graph_module, holder):
            continue
        weight = attribute(graph_module, holder)
        assert weight is not None
        if weight.ndim != 2 or (isinstance(x, fx.Node) and x.op == "get_attr"):
            continue
        set_attribute(graph_module, str(holder.target), nn.Parameter(weight.detach().t().contiguous()))
        holder.meta = {**holder.meta, "val": holder.meta["val"].t()}
        node.target, node.args = aten.linear.default, (x, holder) if bias is None else (x, holder, bias)
    graph_module.recompile()


def place_linear(graph_module: fx.GraphModule, scheme: Scheme) -> Placement:
    """Decide the quantizers of a scheme whose `activations` are `dynamic` or `float`.

    With `dynamic`, each linear layer's input has a quantizer, which all linear layers that read the same tensor share.
    """
    placement = Placement()
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or node.target not in WEIGHTED | EMBEDDINGS or not is_float(node):
            continue
        placement.layers.append(name := layer_of(node))
        weight = weight_of(node)
        if scheme.excludes(name):
            placement.left_in_float[name] = "left in float by option"
        elif node.target in CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS:
            placement.left_in_float[name] = CONVOLUTION_STAYS[scheme.activations]
        elif not isinstance(weight, fx.Node) or attribute(graph_module, weight) is None:
            placement.left_in_float[name] = "its weight is computed, not stored"
        elif node.target in EMBEDDINGS:
            placement.tables.append(node)
        else:
            assert node.target in LINEAR
            placement.weights.append(node)
            if scheme.activations == "dynamic":
                operand = node.args[0]
                placement.source[operand] = operand
                placement.readers.setdefault(operand, []).append(node)
    return placement
