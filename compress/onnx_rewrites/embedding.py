"""Look-ups in a quantized table that fetch integers, and turn only those into floats."""

import numpy as np
from onnx import TensorProto, helper

from compress.onnx_rewrites.graph import DQ, Graph


def gather_integers(graph: Graph) -> None:
    """DQ of a table with a scale per row, Gather of rows: Gather of codes and of scales, Cast, Mul; in place.

    Left as it is, the runtime would keep the whole table in float. The products are the same, bit for bit.
    """
    for node in [node for node in graph.proto.node if node.op_type == "Gather"]:
        table = graph.producer.get(node.input[0])
        if table is None or table.op_type != DQ:
            continue
        codes, scale, zero_point = (graph.array(name) for name in table.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if (
            codes is None
            or scale is None
            or zero_point is None
            or axis != 0
            or zero_point.any()
            or scale.shape != codes.shape[:1]
        ):
            continue
        name, rows = node.name, node.input[1]
        scales = graph.add_array(f"{table.input[1]}_column", np.reshape(scale, (-1, *[1] * (codes.ndim - 1))))
        steps = [
            helper.make_node("Gather", [table.input[0], rows], [f"{name}_codes"], name=f"{name}_codes"),
            helper.make_node("Gather", [scales, rows], [f"{name}_scales"], name=f"{name}_scales"),
            helper.make_node("Cast", [f"{name}_codes"], [f"{name}_floats"], name=f"{name}_floats", to=TensorProto.FLOAT),
        ]
        for step in steps:
            graph.add_before(node, step)
        node.CopyFrom(helper.make_node("Mul", [f"{name}_floats", f"{name}_scales"], list(node.output), name=name))
