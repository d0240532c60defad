"""Names of the modules in the ONNX graph, so that a report about the file speaks of the model."""

from onnx import NodeProto

from compress.onnx_rewrites.graph import DQ, Graph, Q

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "MatMulNBits")
# What ONNX Runtime merges into the convolution in front; and an ending that `measure.coverage` takes off again.
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")
MERGED = "_token_activation"


def name_layers(graph: Graph) -> None:
    """Name products and Gather, and their outputs, after the module that holds their weight; Add after what it adds to.

    The optimizer keeps the name of a node that becomes an integer operator, and the name of the output of one that gets
    another memory layout; of an activation that it merges into that, the activation's output.
    """
    taken = {name for node in graph.proto.node for name in (node.name, *node.output)} | set(graph.initializers)
    taken.update(value.name for value in graph.proto.input)
    for node in graph.proto.node:
        name = _layer_name(graph, node)
        if name is None or name in taken:
            continue
        taken.add(name)
        node.name = name
        _name_output(graph, node, name)
        readers = graph.readers(node.output[0])
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
            _name_output(graph, readers[0], name + MERGED)


def _name_output(graph: Graph, node: NodeProto, name: str) -> None:
    if node.output[0] in graph.outputs:
        return
    for reader in graph.readers(node.output[0]):
        reader.input[:] = [name if value == node.output[0] else value for value in reader.input]
    node.output[0] = name
    graph.producer[name] = node


def _layer_name(graph: Graph, node: NodeProto) -> str | None:
    if node.op_type in (*PRODUCTS, "Gather"):
        weight = node.input[0 if node.op_type == "Gather" else 1]
        while weight in graph.producer and graph.producer[weight].op_type in (Q, DQ, "Transpose"):
            weight = graph.producer[weight].input[0]
        stored = weight.removesuffix("_int")
        return stored.removesuffix(".weight") if weight in graph.initializers and stored.endswith(".weight") else None
    if node.op_type == "Add" and not _adds_constant(graph, node):
        for operand in node.input:
            before = graph.producer.get(operand)
            while before is not None and (before.op_type not in (*PRODUCTS, "Add") or _adds_constant(graph, before)):
                computed = [name for name in before.input if name in graph.producer]
                before = graph.producer[computed[0]] if computed else None
            if before is not None and before.op_type != "Add":
                return f"add behind {before.name}"
    return None


def _adds_constant(graph: Graph, node: NodeProto) -> bool:
    """Whether a node is an Add of a stored tensor, such as a bias."""
    return node.op_type == "Add" and any(name in graph.initializers for name in node.input)
