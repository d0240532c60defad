"""Small rewrites of an exported ONNX graph, each because ONNX Runtime has an integer kernel for the new form only.

Every function changes the graph in place; `rewrite` runs them all. None changes what the graph computes.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

Q, DQ = "QuantizeLinear", "DequantizeLinear"
# Codes of a bias stay below this, so that the int32 sum of products that they are added to cannot overflow.
LARGEST_BIAS_CODE = 2**30
# What ONNX Runtime merges into the convolution in front; and an ending that `measure.coverage` takes off again.
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")
MERGED = "_token_activation"


class Graph:
    """Look-ups over a graph that is being changed: initializers by name, producers and readers of a value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.proto = model.graph
        self.initializers = {tensor.name: tensor for tensor in self.proto.initializer}
        self.producer = {name: node for node in self.proto.node for name in node.output}
        self.outputs = {value.name for value in self.proto.output}

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.proto.node if name in node.input]

    def array(self, name: str) -> np.ndarray | None:
        """The constant of that name; None for anything computed."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def add_array(self, name: str, value: np.ndarray) -> str:
        """Store a constant; gives its name, which has a number appended where `name` is taken (a module called twice)."""
        taken = sum(other == name or other.startswith(name + "_again") for other in self.initializers)
        name = f"{name}_again{taken}" if taken else name
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.proto.initializer.append(tensor)
        self.initializers[name] = tensor
        return name

    def add_before(self, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
        self.proto.node.insert(list(self.proto.node).index(node), new)
        self.producer.update(dict.fromkeys(new.output, new))

    def remove_unused(self) -> None:
        """Remove nodes and initializers that lead to no output."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.proto.node):
            if any(name in needed for name in node.output):
                needed.update(node.input)
                kept.append(node)
        tensors = [tensor for tensor in self.proto.initializer if tensor.name in needed]
        del self.proto.node[:], self.proto.initializer[:]
        self.proto.node.extend(reversed(kept))
        self.proto.initializer.extend(tensors)
        del self.proto.value_info[:]


def rewrite(model: onnx.ModelProto) -> None:
    """All rewrites of this file, in place, then the removal of what is unused."""
    graph = Graph(model)
    global_average_pool(graph)
    store_integer_weights(graph)
    store_integer_biases(graph)
    pad_integers(graph)
    keep_in_float(graph)
    name_layers(graph)
    graph.remove_unused()


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


def _leads_to_quantize(graph: Graph, node: onnx.NodeProto) -> bool:
    readers = graph.readers(node.output[0])
    while len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        readers = graph.readers(readers[0].output[0])
    return any(reader.op_type == Q for reader in readers)


def _same_constant(graph: Graph, one: str, other: str) -> bool:
    first, second = graph.array(one), graph.array(other)
    return first is not None and second is not None and np.array_equal(first, second)


def name_layers(graph: Graph) -> None:
    """Name Conv, Gemm and MatMul, and their outputs, after the module that holds their weight; Add after what it adds to.

    The optimizer keeps the name of a node that becomes an integer operator, and the name of the output of one that gets
    another memory layout; of an activation that it merges into that, the activation's output.
    """
    taken = {name for node in graph.proto.node for name in (node.name, *node.output)} | set(graph.initializers)
    taken.update(value.name for value in graph.proto.input)
    for node in graph.proto.node:
        name = _layer_name(graph, node)
        if name is None or name in taken:
            continue
        taken.add(name)
        node.name = name
        _name_output(graph, node, name)
        readers = graph.readers(node.output[0])
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
            _name_output(graph, readers[0], name + MERGED)


def _name_output(graph: Graph, node: onnx.NodeProto, name: str) -> None:
    if node.output[0] in graph.outputs:
        return
    for reader in graph.readers(node.output[0]):
        reader.input[:] = [name if value == node.output[0] else value for value in reader.input]
    node.output[0] = name
    graph.producer[name] = node


def _layer_name(graph: Graph, node: onnx.NodeProto) -> str | None:
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        weight = node.input[1]
        while weight in graph.producer and graph.producer[weight].op_type in (Q, DQ, "Transpose"):
            weight = graph.producer[weight].input[0]
        stored = weight.removesuffix("_int")
        return stored.removesuffix(".weight") if weight in graph.initializers and stored.endswith(".weight") else None
    if node.op_type == "Add":
        before = graph.producer.get(node.input[0])
        while before is not None and before.op_type not in ("Conv", "Gemm", "MatMul", "Add"):
            before = graph.producer.get(before.input[0]) if before.input else None
        return f"add behind {before.name}" if before is not None and before.op_type != "Add" else None
    return None
