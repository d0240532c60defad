"""Linear layers as a Gemm that ONNX Runtime computes in integers, bias included."""

import numpy as np
from onnx import helper

from compress.onnx_rewrites.graph import DQ, Graph, Q


def linear_as_gemm(graph: Graph) -> None:
    """MatMul of a quantized (batch, ..., in) by a quantized matrix, Add of a bias: Gemm between two reshapes; in place.

    A Gemm takes two axes, and needs no pass over its output for the bias. Only where all axes but the first are fixed, so
    that the reshape back is to a constant shape.
    """
    shapes = {value.name: value.type.tensor_type.shape for value in graph.proto.value_info}
    for product in [node for node in graph.proto.node if node.op_type == "MatMul"]:
        readers = graph.readers(product.output[0])
        if len(readers) != 1 or readers[0].op_type != "Add" or product.output[0] in graph.outputs:
            continue
        add = readers[0]
        bias = next((name for name in add.input if name != product.output[0]), "")
        x, transposed = (graph.producer.get(name) for name in product.input)
        weight = graph.producer.get(transposed.input[0]) if transposed is not None and transposed.op_type == "Transpose" else None
        if x is None or weight is None or x.op_type != DQ or weight.op_type != DQ:
            continue
        codes, vector = graph.array(weight.input[0]), graph.array(bias)
        inner = _fixed_axes(shapes.get(product.input[0]))
        if codes is None or codes.ndim != 2 or vector is None or vector.shape != (len(codes),) or not inner:
            continue
        outputs, inputs = codes.shape
        name = product.name
        rows = graph.add_array(f"{name}_rows", np.array([-1, inputs], np.int64))
        back = graph.add_array(f"{name}_back", np.array([-1, *inner[:-1], outputs], np.int64))
        names = [f"{name}_codes", f"{name}_flat", f"{name}_sums"]
        for step in (
            helper.make_node("Reshape", [x.input[0], rows], names[:1], name=names[0]),
            helper.make_node(DQ, [names[0], *x.input[1:]], names[1:2], name=names[1]),
            helper.make_node("Gemm", [names[1], weight.output[0], bias], names[2:], name=name, transB=1),
        ):
            graph.add_before(product, step)
        product.CopyFrom(helper.make_node("Reshape", [names[2], back], list(add.output), name=f"{name}_back"))
        graph.producer[product.output[0]] = product
        graph.proto.node.remove(add)


def keep_in_integers(graph: Graph) -> None:
    """Put a Reshape to the same shape behind each quantized Gemm that ONNX Runtime 1.31 would compute in float, in place.

    It does so where one reader of the sums quantizes them and another does not, and where a ReLU or Clip reads them whose own
    readers do not quantize. It takes the integer kernel that gives floats where nothing of the kind follows.
    """
    for node in [node for node in graph.proto.node if node.op_type == "Gemm"]:
        quantized = all(name in graph.producer and graph.producer[name].op_type == DQ for name in node.input[:2])
        if not quantized or not _would_be_float(graph, node.output[0]):
            continue
        result, sums = node.output[0], f"{node.name}_sums"
        shape = graph.add_array(f"{node.name}_same", np.array([0, -1], np.int64))
        node.output[0] = sums
        graph.producer[sums] = node
        after = list(graph.proto.node)[list(graph.proto.node).index(node) + 1]
        graph.add_before(after, helper.make_node("Reshape", [sums, shape], [result], name=f"{node.name}_same"))


def _would_be_float(graph: Graph, sums: str) -> bool:
    readers = graph.readers(sums)
    kinds = [reader.op_type == Q for reader in readers]
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        kinds = [reader.op_type == Q for reader in graph.readers(readers[0].output[0])]
        return bool(kinds) and not all(kinds)
    return any(kinds) and not all(kinds)


def _fixed_axes(shape: object) -> list[int]:
    """Sizes of all axes but the first, of three or more; empty where one is not fixed."""
    sizes = [dim.dim_value for dim in shape.dim] if shape is not None else []  # type: ignore[attr-defined]
    return sizes[1:] if len(sizes) > 2 and all(sizes[1:]) else []
