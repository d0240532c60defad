"""Weights that are rounded in blocks, stored as the integers that they are."""

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from compress.onnx_rewrites.graph import Graph
from compress.onnx_rewrites.nbits import Codes, use_nbits

DOMAIN, OPERATOR = "compress", "FakeQuantizeBlocks"  # as `compress.quant.blocks` writes it


def store_blocks(graph: Graph) -> None:
    """Replace every weight that is rounded in blocks by its codes, in place; `nbits.declare_domains` has to follow.

    At 4 bits linear layers and look-ups become ONNX Runtime's own operators. Everything else is widened by standard
    operators on constants, which a runtime computes once, when it makes the session: that spares the file, not the memory.
    ONNX Runtime 1.31 has an operator for 8 bits, too, but its products took 1.8 (128 rows) to 5 times (1 row) as long as floats.
    """
    for node in [node for node in graph.proto.node if node.domain == DOMAIN and node.op_type == OPERATOR]:
        codes = _codes(graph, node)
        if codes.bits == 4:
            use_nbits(graph, codes, node)
        if graph.readers(node.output[0]):
            _widen(graph, codes, node)


def _codes(graph: Graph, node: NodeProto) -> Codes:
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    weight, scale, zero_point = (graph.array(name) for name in node.input)
    assert weight is not None and scale is not None and zero_point is not None
    bits, size = attributes["bits"], attributes["block_size"]
    steps, zeros = (each.repeat(size, 1)[:, : weight.shape[1]] for each in (scale, zero_point.astype(np.float32)))
    # In float32, as torch divides.
    values = np.clip(np.rint(weight / steps) + zeros, 0, 2**bits - 1).astype(np.uint8)
    return Codes(node.input[0], values, scale, zero_point, size, bits)


def _widen(graph: Graph, codes: Codes, node: NodeProto) -> None:
    """(codes - zero points) * scales in place of `node`."""
    name, result = codes.name, node.output[0]
    inputs = codes.values.shape[1]
    block_of = None
    if codes.scale.shape[1] > 1:
        block_of = graph.add_array(f"{name}_block_of", np.arange(inputs) // codes.block_size)

    def each(array: np.ndarray, suffix: str, *, per_block: bool) -> str:
        """The floats (rows, inputs or 1) of an array (rows, inputs or blocks)."""
        value = graph.add_array(f"{name}_{suffix}", array)
        if array.dtype != np.float32:
            value = step("Cast", [value], f"{suffix}_floats", to=TensorProto.FLOAT)
        return step("Gather", [value, block_of], f"{suffix}_wide", axis=1) if per_block and block_of is not None else value

    def step(operator: str, inputs: list[str], suffix: str, **attributes: Any) -> str:
        output = f"{name}_{suffix}"
        graph.add_before(node, helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    if codes.symmetric:
        differences = each((codes.values.astype(np.int16) - codes.middle).astype(np.int8), "int", per_block=False)
    else:
        zeros = each(codes.zero_point, "zeros", per_block=True)
        differences = step("Sub", [each(codes.values, "int", per_block=False), zeros], "differences")
    scales = each(codes.scale, "scales", per_block=True)
    node.CopyFrom(helper.make_node("Mul", [differences, scales], [result], name=f"{name}_rounded"))
