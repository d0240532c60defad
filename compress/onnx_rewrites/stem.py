"""The first convolution of an image network, rewritten so that ONNX Runtime's integer kernel has long rows to work on.

A 7x7 convolution with stride 2 on 3 channels gathers rows of 7 * 3 bytes. After moving each 2x2 block of pixels into the
channels (SpaceToDepth) the same sums are a 4x4 convolution with stride 1 on 12 channels, whose rows are 4 * 12 bytes.
The integers that come out are the same, bit for bit.
"""

import numpy as np
from onnx import NodeProto, helper

from compress.onnx_rewrites.graph import DQ, Graph, Q

# Wider inputs have long rows already. Left alone, a 3x3 kernel with 16 to 64 outputs and a depthwise layer behind it take 1.0 to
# 1.1 times as long for 32 pixels a side, 1.05 to 1.2 times for 64, and 1.2 to 1.3 times for 224.
MOST_CHANNELS, SMALLEST_KERNEL = 3, 3


def space_to_depth(graph: Graph) -> None:
    """Rewrite every quantized Conv with stride 2, a kernel of 3 or more and at most 3 input channels; in place."""
    for node in list(graph.proto.node):
        quantized = graph.producer.get(node.input[0]) if node.op_type == "Conv" else None
        weight = graph.producer.get(node.input[1]) if quantized is not None else None
        if quantized is None or weight is None or quantized.op_type != DQ or weight.op_type != DQ:
            continue
        before, codes = graph.producer.get(quantized.input[0]), graph.array(weight.input[0])
        zero_points = [graph.array(reader.input[2]) for reader in (quantized, weight) if len(reader.input) > 2]
        if before is None or before.op_type != Q or codes is None or len(zero_points) != 2 or not _fits(node, codes):
            continue
        if zero_points[0] is None or zero_points[1] is None or zero_points[1].any():
            continue
        if any(len(graph.readers(name)) != 1 for name in (weight.input[0], weight.output[0])):  # a convolution called twice
            continue
        blocks = _move_blocks(graph, node, quantized, before.input[0], codes.shape[2:])
        graph.add_before(node, blocks)
        dequantized = f"{blocks.output[0]}_dq"
        inputs = [blocks.output[0], *quantized.input[1:]]
        graph.add_before(node, helper.make_node(DQ, inputs, [dequantized], name=dequantized))
        graph.replace_array(weight.input[0], _weights_of_blocks(codes))
        kept = [attribute for attribute in node.attribute if attribute.name in ("group", "dilations")]
        new = helper.make_node("Conv", [dequantized, *node.input[1:]], list(node.output), name=node.name)
        new.attribute.extend(kept)
        node.CopyFrom(new)


def _fits(node: NodeProto, codes: np.ndarray) -> bool:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return (
        codes.ndim == 4
        and codes.shape[1] <= MOST_CHANNELS
        and min(codes.shape[2:]) >= SMALLEST_KERNEL
        and attributes.get("group", 1) == 1
        and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
        and list(attributes.get("strides", [1, 1])) == [2, 2]
        and list(attributes.get("dilations", [1, 1])) == [1, 1]
    )


def _move_blocks(graph: Graph, node: NodeProto, quantized: NodeProto, pixels: str, kernel: tuple[int, ...]) -> NodeProto:
    """Pad the integers, then move 2x2 blocks into the channels.

    At the end of an axis that is `size` long the padding is what makes `out` whole blocks of output and kernel, for
    out = (size + begin + end - kernel) // 2 + 1: that is end + kernel % 2, less the remainder of that division.
    """
    pads = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "pads"), [0, 0, 0, 0])
    begin, end, odd = np.array(pads[:2]), np.array(pads[2:]), np.array(kernel) % 2
    name = f"{node.name}_blocks"

    def constant(suffix: str, value: object) -> str:
        return graph.add_array(f"{name}_{suffix}", np.asarray(value, np.int64))

    steps = [
        helper.make_node("Shape", [pixels], [f"{name}_size"], start=2, end=4),
        helper.make_node("Add", [f"{name}_size", constant("offset", begin + end - kernel)], [f"{name}_span"]),
        helper.make_node("Mod", [f"{name}_span", constant("two", 2)], [f"{name}_rest"]),
        helper.make_node("Sub", [constant("most", end + odd), f"{name}_rest"], [f"{name}_end"]),
        helper.make_node("Concat", [constant("begin", [0, 0, *begin, 0, 0]), f"{name}_end"], [f"{name}_pads"], axis=0),
        helper.make_node("Pad", [quantized.input[0], f"{name}_pads", quantized.input[2]], [f"{name}_padded"]),
    ]
    for step in steps:
        step.name = step.output[0]
        graph.add_before(node, step)
    return helper.make_node("SpaceToDepth", [f"{name}_padded"], [name], name=name, blocksize=2)


def _weights_of_blocks(codes: np.ndarray) -> np.ndarray:
    """(out, in, height, width) to (out, 4 * in, ceil(height / 2), ceil(width / 2)), channels in SpaceToDepth's order."""
    out, channels, height, width = codes.shape
    even = np.pad(codes, [(0, 0), (0, 0), (0, height % 2), (0, width % 2)])
    split = even.reshape(out, channels, even.shape[2] // 2, 2, even.shape[3] // 2, 2)
    return split.transpose(0, 3, 5, 1, 2, 4).reshape(out, 4 * channels, *split.shape[2:5:2])
