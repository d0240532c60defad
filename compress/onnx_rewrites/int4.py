"""Codes of at most four bits, two to a byte."""

import numpy as np
from onnx import ModelProto, TensorProto, helper

from compress.onnx_rewrites.graph import DQ, Graph

OPSET = 21  # the first with four-bit integers
# Below, the node that widens them takes more of the file than it saves.
SMALLEST = 256


def pack_int4(graph: Graph, model: ModelProto) -> None:
    """Store int8 weights whose codes all lie in [-8, 7] as int4, and widen them by a Cast; in place.

    The runtime casts constants once, when it makes the session, so that the same integer kernels run. A graph that holds
    GroupNormalization stays: that operator means something else from opset 21 on.
    """
    if any(node.op_type == "GroupNormalization" for node in graph.proto.node):
        return
    widened: dict[str, str] = {}
    for node in [node for node in graph.proto.node if node.op_type == DQ]:
        name = node.input[0]
        codes = graph.array(name)
        if codes is None or codes.dtype != np.int8 or codes.size < SMALLEST or codes.min() < -8 or codes.max() > 7:
            continue
        if name not in widened:
            widened[name] = f"{name}_widened"
            low, high = np.pad(codes.ravel(), (0, codes.size % 2)).reshape(-1, 2).astype(np.uint8).T & 15
            packed = helper.make_tensor(f"{name}4", TensorProto.INT4, codes.shape, (low | high << 4).tobytes(), raw=True)
            graph.proto.initializer.append(packed)
            graph.initializers[packed.name] = graph.proto.initializer[-1]
            cast = helper.make_node("Cast", [packed.name], [widened[name]], name=widened[name], to=TensorProto.INT8)
            graph.add_before(node, cast)
        node.input[0] = widened[name]
    if widened:
        for imported in model.opset_import:
            if not imported.domain:
                imported.version = max(imported.version, OPSET)
