"""The mean over all pixels as the operator that has an integer kernel."""

from onnx import helper

from compress.onnx_rewrites.graph import DQ, Graph, Q


def global_average_pool(graph: Graph) -> None:
    """ReduceMean over the last two of four axes becomes GlobalAveragePool; the former has no integer kernel."""
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.proto.value_info}
    for node in list(graph.proto.node):
        if node.op_type != "ReduceMean" or len(node.input) < 2:
            continue
        axes = graph.array(node.input[1])
        keep = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
        rank = ranks.get(node.output[0], 0) + (0 if keep else 2)
        if axes is None or rank != 4 or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
            continue
        pooled = node.output[0] if keep else node.output[0] + "_pooled"
        if not keep:
            place, flat = list(graph.proto.node).index(node) + 1, node.output[0]
            readers, source = graph.readers(flat), pooled
            if len(readers) == 1 and readers[0].op_type == Q:  # the kernel wants its output quantized right behind it
                source, parameters = f"{pooled}_dq", readers[0].input[1:]
                graph.proto.node.insert(place, helper.make_node(DQ, [f"{pooled}_q", *parameters], [source], name=source))
                graph.proto.node.insert(place, helper.make_node(Q, [pooled, *parameters], [f"{pooled}_q"], name=f"{pooled}_q"))
                place += 2
            graph.proto.node.insert(place, helper.make_node("Flatten", [source], [flat], name=f"{node.name}_flatten", axis=1))
        node.CopyFrom(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name))
