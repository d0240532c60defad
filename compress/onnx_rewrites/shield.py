"""Layers that were left in float on purpose stay in float."""

import numpy as np
from onnx import NodeProto, helper

from compress.onnx_rewrites.graph import DQ, Graph, Q


def keep_in_float(graph: Graph) -> None:
    """Shield float Conv and Gemm between DQ and Q with a Clip to the range that the integers can take anyway.

    Without it ONNX Runtime (`WeightBiasQuantization`) quantizes their weights behind the user's back, with one scale for
    the whole tensor: the very layers that were left in float because they lose most.
    """
    for node in list(graph.proto.node):
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or node.input[1] not in graph.initializers:
            continue
        before = graph.producer.get(node.input[0])
        if before is None or before.op_type != DQ or not _leads_to_quantize(graph, node):
            continue
        scale, zero_point = graph.array(before.input[1]), graph.array(before.input[2])
        if scale is None or zero_point is None or scale.size != 1:
            continue
        limits = np.iinfo(zero_point.dtype)
        name = f"{node.name}_range"
        bounds = [
            graph.add_array(f"{name}_{side}", ((np.float32(code) - zero_point) * scale).astype(np.float32).reshape(()))
            for side, code in (("min", limits.min), ("max", limits.max))
        ]
        graph.add_before(node, helper.make_node("Clip", [node.input[0], *bounds], [name], name=name))
        node.input[0] = name


def _leads_to_quantize(graph: Graph, node: NodeProto) -> bool:
    readers = graph.readers(node.output[0])
    while len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        readers = graph.readers(readers[0].output[0])
    return any(reader.op_type == Q for reader in readers)
