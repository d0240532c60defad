"""Look-ups and small edits over an exported ONNX graph, which its rewrites share."""

import numpy as np
import onnx
from onnx import numpy_helper

Q, DQ = "QuantizeLinear", "DequantizeLinear"


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
        self.initializers[name] = self.proto.initializer[-1]  # appending copies
        return name

    def replace_array(self, name: str, value: np.ndarray) -> None:
        self.initializers[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))

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
