"""The guard of an attention's softmax against rows without any key, where it costs least."""

from onnx import NodeProto, helper

from compress.onnx_rewrites.graph import Graph


def guard_after_values(graph: Graph) -> None:
    """Where(IsNaN(p), 0, p) @ v, as torch's exporter writes a masked attention, becomes the same guard on p @ v; in place.

    A row of p is a softmax, so it is NaN as a whole, and so is then the row of the product, which has as many columns as a
    head is wide, a quarter of p's at 128 tokens and 32 channels. Only NaN and infinity in the values are told apart no more.
    """
    for product in [node for node in graph.proto.node if node.op_type == "MatMul"]:
        guard = graph.producer.get(product.input[0])
        if guard is None or guard.op_type != "Where" or len(graph.readers(guard.output[0])) != 1:
            continue
        test, zero = graph.producer.get(guard.input[0]), graph.array(guard.input[1])
        softmax = graph.producer.get(guard.input[2])
        if test is None or test.op_type != "IsNaN" or list(test.input) != [guard.input[2]]:
            continue
        if softmax is None or softmax.op_type != "Softmax" or _axis(softmax) != -1:
            continue
        if zero is None or zero.any() or zero.size != 1:
            continue
        name, result = product.name, product.output[0]
        product.input[0], product.output[0] = guard.input[2], f"{name}_unguarded"
        isnan = helper.make_node("IsNaN", [product.output[0]], [f"{name}_isnan"], name=f"{name}_isnan")
        where = helper.make_node("Where", [f"{name}_isnan", guard.input[1], product.output[0]], [result], name=f"{name}_guard")
        place = list(graph.proto.node).index(product) + 1
        graph.proto.node.insert(place, where)
        graph.proto.node.insert(place, isnan)
        graph.producer.update({product.output[0]: product, isnan.output[0]: isnan, result: where})


def _axis(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
