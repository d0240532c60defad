"""Padding before an integer convolution done by the convolution itself, which spares a pass over the tensor."""

import numpy as np
from onnx import NodeProto, helper

from compress.onnx_rewrites.graph import DQ, Graph


def fold_padding(graph: Graph) -> None:
    """Pad with the zero point, DQ, Conv becomes DQ, Conv with larger `pads`; in place.

    Exact: a convolution pads with the real 0, which is what the zero point stands for.
    """
    for conv in [node for node in graph.proto.node if node.op_type == "Conv"]:
        dequantize = graph.producer.get(conv.input[0])
        pad = graph.producer.get(dequantize.input[0]) if dequantize is not None and dequantize.op_type == DQ else None
        if dequantize is None or pad is None or pad.op_type != "Pad":
            continue
        added = _spatial_padding(graph, pad, dequantize)
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
        if added is None or attributes.pop("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        own = attributes.pop("pads", [0] * len(added))
        unpadded = f"{conv.name}_unpadded"
        graph.add_before(conv, helper.make_node(DQ, [pad.input[0], *dequantize.input[1:]], [unpadded], name=unpadded))
        pads = [int(a + b) for a, b in zip(own, added, strict=True)]
        inputs, outputs = [unpadded, *conv.input[1:]], list(conv.output)
        conv.CopyFrom(helper.make_node("Conv", inputs, outputs, name=conv.name, pads=pads, **attributes))


def _spatial_padding(graph: Graph, pad: NodeProto, dequantize: NodeProto) -> list[int] | None:
    """What a Pad adds, as `pads` of a Conv has it; None where a Conv cannot do the same."""
    mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
    pads, value = graph.array(pad.input[1]), graph.array(pad.input[2]) if len(pad.input) > 2 else np.zeros((), np.uint8)
    zero_point = graph.array(dequantize.input[2])
    if mode != b"constant" or len(pad.input) > 3 or pads is None or value is None or zero_point is None:
        return None
    rank = len(pads) // 2
    begins, ends = pads[:rank], pads[rank:]
    if value != zero_point or min(pads) < 0 or any(begins[:2]) or any(ends[:2]):
        return None
    return [*begins[2:].tolist(), *ends[2:].tolist()]
