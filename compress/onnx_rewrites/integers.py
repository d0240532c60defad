"""Weights, biases and paddings stored and computed as integers."""

import numpy as np
from onnx import helper

from compress.onnx_rewrites.graph import DQ, Graph, Q

# Codes of a bias stay below this, so that the int32 sum of products that they are added to cannot overflow.
LARGEST_BIAS_CODE = 2**30


def _quantized(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """QuantizeLinear of the ONNX standard, along axis 0 for a scale per channel."""
    shape = (-1, *[1] * (values.ndim - 1)) if scale.ndim else ()
    limits = np.iinfo(zero_point.dtype)
    # In float32, as the runtime divides; rint rounds halves to even, as the standard says.
    codes = np.rint(values / scale.reshape(shape)) + zero_point.reshape(shape)
    return np.clip(codes, limits.min, limits.max).astype(zero_point.dtype)


def store_integer_weights(graph: Graph) -> None:
    """QuantizeLinear of a constant becomes the int8 constant: a quarter of the bytes in the file."""
    for node in list(graph.proto.node):
        if node.op_type != Q or len(node.input) < 3:
            continue
        values, scale, zero_point = (graph.array(name) for name in node.input)
        if values is None or scale is None or zero_point is None:
            continue
        stored = graph.add_array(node.input[0] + "_int", _quantized(values, scale, zero_point))
        for reader in graph.readers(node.output[0]):
            reader.input[:] = [stored if name == node.output[0] else name for name in reader.input]


def store_integer_biases(graph: Graph) -> None:
    """Float biases of quantized Conv and Gemm become int32 with scale = input scale * weight scale.

    That is the scale of the integer sum, so the kernel adds them without conversion.

    Source: Jacob et al. 2018, section 2.4.
    """
    for node in list(graph.proto.node):
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        bias = graph.array(node.input[2])
        scales = [_dequantized_scale(graph, name) for name in node.input[:2]]
        if bias is None or scales[0] is None or scales[1] is None:
            continue
        scale = (scales[0] * scales[1] * np.ones(len(bias))).astype(np.float32)
        codes = np.rint(bias.astype(np.float64) / scale)
        if np.abs(codes).max(initial=0) > LARGEST_BIAS_CODE:
            continue  # `quant.ptq.calibrate` chooses scales for which this does not happen
        codes_name = graph.add_array(f"{node.input[2]}_int", codes.astype(np.int32))
        scale_name = graph.add_array(f"{node.input[2]}_scale", scale)
        output = f"{codes_name}_dq"
        graph.add_before(node, helper.make_node(DQ, [codes_name, scale_name], [output], name=output, axis=0))
        node.input[2] = output


def _dequantized_scale(graph: Graph, name: str) -> np.ndarray | None:
    producer = graph.producer.get(name)
    return graph.array(producer.input[1]) if producer is not None and producer.op_type == DQ else None


def pad_integers(graph: Graph) -> None:
    """DQ, Pad with zeros, Q at one scale becomes Pad of the integers with their zero point.

    Left as it is, the runtime pads in float between two conversions.
    """
    for node in list(graph.proto.node):
        before = graph.producer.get(node.input[0]) if node.op_type == "Pad" else None
        after = graph.readers(node.output[0])
        if before is None or before.op_type != DQ or len(after) != 1 or after[0].op_type != Q:
            continue
        value = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
        zero_point = graph.array(before.input[2])
        same = [_same_constant(graph, before.input[i], after[0].input[i]) for i in (1, 2)]
        if value is None or value.any() or zero_point is None or not all(same):
            continue
        constant = graph.add_array(f"{node.name}_zero", zero_point.reshape(()))
        mode = [attribute for attribute in node.attribute if attribute.name == "mode"]
        inputs = [before.input[0], node.input[1], constant, *node.input[3:]]
        padded = helper.make_node("Pad", inputs, list(after[0].output), name=node.name)
        padded.attribute.extend(mode)
        node.CopyFrom(padded)
        graph.proto.node.remove(after[0])
        graph.producer[padded.output[0]] = node


def _same_constant(graph: Graph, one: str, other: str) -> bool:
    first, second = graph.array(one), graph.array(other)
    return first is not None and second is not None and np.array_equal(first, second)
