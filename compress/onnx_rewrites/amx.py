"""Convolutions in the form that ONNX Runtime multiplies on the matrix unit (AMX) of newer Intel processors.

ONNX Runtime 1.31 uses AMX in its product of matrices alone. A convolution whose weights have the zero point 0 goes to a kernel
of its own instead, which knows no AMX. With codes and zero point moved by one, the same convolution becomes a product of
matrices, and every integer that comes out stays as it was. On processors without AMX that takes longer.
"""

import math
from collections.abc import Sequence

import numpy as np

from compress.onnx_rewrites.graph import DQ, Graph

# Of `benchmarks/amx.py`: what is at least so large takes 0.98 to 1.9 times as long by the default kernel on one thread, and 0.88
# to 1.65 times on two, for 14 and 28 pixels a side.
FEWEST_OUTPUTS, FEWEST_PRODUCTS = 64, 192
FEWEST_WEIGHTS_1X1, FEWEST_WEIGHTS = 32_000, 50_000  # larger kernels are unrolled for the product first
# Codes of fewer bits are packed in the file, and stay as they are.
FEWEST_BITS = 5
LARGEST_PACKED = 7


def gains(shape: Sequence[int], groups: int) -> bool:
    """Whether a convolution is faster as a product of matrices, where there is AMX.

    Args:
        shape: of the weight, (outputs, inputs / groups, height, width); others than those of images were not measured.
    """
    if len(shape) != 4 or groups != 1:
        return False
    outputs, *each = shape
    products = math.prod(each)  # that are summed for one output
    fewest = FEWEST_WEIGHTS_1X1 if math.prod(shape[2:]) == 1 else FEWEST_WEIGHTS
    return outputs >= FEWEST_OUTPUTS and products >= FEWEST_PRODUCTS and outputs * products >= fewest


def multiply_on_amx(graph: Graph) -> None:
    """Move the codes of int8 weights, and their zero point, from 0 to -1 where the convolution gains by it; in place.

    Codes go from -127 to 127, so that each has room for it.
    """
    for node in graph.proto.node:
        weight = graph.producer.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or weight.op_type != DQ or len(weight.input) < 3:
            continue
        codes, zero_point = graph.array(weight.input[0]), graph.array(weight.input[2])
        if codes is None or zero_point is None or codes.dtype != np.int8 or zero_point.any() or codes.min(initial=0) < -127:
            continue
        if np.abs(codes).max(initial=0) <= LARGEST_PACKED:
            continue
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if not gains(codes.shape, groups) or any(len(graph.readers(name)) != 1 for name in (weight.input[0], weight.output[0])):
            continue
        graph.replace_array(weight.input[0], codes - np.int8(1))
        weight.input[2] = graph.add_array(f"{weight.input[0]}_zero", zero_point - np.int8(1))
