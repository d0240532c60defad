"""Linear layers and look-ups with weights of 4 bits as ONNX Runtime's own operators, which keep them packed in memory.

The standard's form (DequantizeLinear with a block size, MatMul) would become MatMulNBits, too, but with `accuracy_level` 4:
ONNX Runtime 1.31 then rounds the activations to 8 bits without being asked. Level 1 computes in float.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from compress.onnx_rewrites.graph import Graph

CONTRIB = "com.microsoft"
BLOCK_SIZES = (16, 32, 64, 128, 256)
IN_FLOAT = 1


@dataclass(frozen=True)
class Codes:
    """A weight as integers.

    Attributes:
        name: of the weight.
        values: uint8 (rows, inputs), below 2^bits.
        scale, zero_point: float32 and uint8 (rows, blocks).
    """

    name: str
    values: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    block_size: int
    bits: int

    @property
    def middle(self) -> int:
        """The zero point of a symmetric weight, which is the default of the runtime's operators."""
        return 2 ** (self.bits - 1)

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are the middle."""
        return bool((self.zero_point == self.middle).all())


def use_nbits(graph: Graph, codes: Codes, node: NodeProto) -> None:
    """Replace the readers of a weight of 4 bits, in place: look-ups by GatherBlockQuantized, products by MatMulNBits.

    Args:
        node: what gives out the weight. Other readers, and look-ups of rows of odd length, go on reading it.
    """
    readers = graph.readers(node.output[0])
    tables = [reader for reader in readers if _looks_up(reader) and codes.values.shape[1] % 2 == 0]
    products = [product for reader in readers for product in _products(graph, reader)]
    if not tables and not products:
        return
    codes = _in_runtime_blocks(codes)
    (rows, inputs), blocks = codes.values.shape, codes.scale.shape[1]
    missing = blocks * codes.block_size - inputs
    parameters = [graph.add_array(f"{codes.name}_scales", codes.scale)]
    if not codes.symmetric:
        parameters.append(graph.add_array(f"{codes.name}_zeros", _pairs(codes.zero_point)))
    if tables:
        table = graph.add_array(f"{codes.name}_int", _pairs(codes.values))
        for reader in tables:
            _look_up(reader, codes, [table, reader.input[1], *parameters])
    if products:
        shape = np.array([rows, blocks, codes.block_size // 2], np.int64)
        if tables and not missing:  # the same bytes serve both
            matrix = f"{codes.name}_blocks"
            form = graph.add_array(f"{matrix}_shape", shape)
            graph.add_before(node, helper.make_node("Reshape", [table, form], [matrix], name=matrix))
        else:
            padded = np.pad(codes.values, ((0, 0), (0, missing)))
            matrix = graph.add_array(f"{codes.name}_int", _pairs(padded).reshape(shape))
        for product in products:
            _multiply(graph, product, codes, [matrix, *parameters])


def declare_domains(model: ModelProto) -> None:
    """Let the model import the domains of the operators that are in it, and no others, in place."""
    used = {node.domain for node in model.graph.node}
    kept = [each for each in model.opset_import if each.domain in used or not each.domain]
    new = [helper.make_opsetid(CONTRIB, 1)] if CONTRIB in used - {each.domain for each in kept} else []
    del model.opset_import[:]
    model.opset_import.extend([*kept, *new])


def _in_runtime_blocks(codes: Codes) -> Codes:
    """The same with a block size that the runtime takes: one block of all inputs becomes several with equal scales."""
    if codes.block_size in BLOCK_SIZES:
        return codes
    assert codes.scale.shape[1] == 1, codes.block_size
    inputs = codes.values.shape[1]
    # The fewest bytes of packed codes and scales.
    size = min(BLOCK_SIZES, key=lambda size: -(-inputs // size) * (size // 2 + 4))
    scale, zero_point = (each.repeat(-(-inputs // size), 1) for each in (codes.scale, codes.zero_point))
    return replace(codes, scale=scale, zero_point=zero_point, block_size=size)


def _looks_up(node: NodeProto) -> bool:
    return node.op_type == "Gather" and all(attribute.name != "axis" or attribute.i == 0 for attribute in node.attribute)


def _products(graph: Graph, reader: NodeProto) -> list[NodeProto]:
    """The products by the transposed weight that a reader of it is, or leads to."""
    if reader.op_type == "Transpose":
        return [
            node for node in graph.readers(reader.output[0]) if node.op_type == "MatMul" and node.input[1] == reader.output[0]
        ]
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in reader.attribute}
    is_linear = {"alpha": 1, "beta": 1, "transA": 0, "transB": 0} | options == {"alpha": 1, "beta": 1, "transA": 0, "transB": 1}
    return [reader] if reader.op_type == "Gemm" and is_linear else []


def _multiply(graph: Graph, product: NodeProto, codes: Codes, weight: list[str]) -> None:
    """MatMulNBits, and Add of a Gemm's bias, which the runtime merges into it, in place of a product."""
    name, result, bias = product.name, product.output[0], list(product.input[2:])
    rows, inputs = codes.values.shape
    options: dict[str, Any] = {
        "K": inputs,
        "N": rows,
        "bits": codes.bits,
        "block_size": codes.block_size,
        "accuracy_level": IN_FLOAT,
    }
    output = f"{name}_product" if bias else result
    new = helper.make_node("MatMulNBits", [product.input[0], *weight], [output], name=name, domain=CONTRIB, **options)
    if bias:
        new.name = output
        graph.add_before(product, new)
        new = helper.make_node("Add", [output, *bias], [result], name=name)
    product.CopyFrom(new)


def _look_up(reader: NodeProto, codes: Codes, inputs: list[str]) -> None:
    options: dict[str, Any] = {"gather_axis": 0, "quantize_axis": 1, "block_size": codes.block_size, "bits": codes.bits}
    output, name = list(reader.output), reader.name
    reader.CopyFrom(helper.make_node("GatherBlockQuantized", inputs, output, name=name, domain=CONTRIB, **options))


def _pairs(codes: np.ndarray) -> np.ndarray:
    """Two codes of 4 bits in a byte, the first one low; a row of odd length ends with a zero."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return even[:, 0::2] | (even[:, 1::2] << 4)
