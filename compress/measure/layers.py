"""Measured times of single layers on ONNX Runtime: a table to search in, filled as it is asked.

The sum over a network's layers is no prediction of its latency, but it ranks widths of one network well enough to start a
search that then measures the whole.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compress.measure.runtimes import session_options

# Convolution: (in, out, groups, kernel, stride, padding, dilation, pixels); linear: (in, out, rows).
Shape = tuple[Any, ...]
CALLS = 20


def layer_shapes(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Counter[Shape]:
    """How often each shape of convolution and linear layer is computed in one forward at batch 1."""
    found: Counter[Shape] = Counter()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _output: Any) -> None:
        x = inputs[0]
        if isinstance(module, nn.Linear):
            found["linear", module.in_features, module.out_features, x.shape[1:-1].numel()] += 1
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not isinstance(module.padding, str):
            sizes = (module.groups, module.kernel_size, module.stride, module.padding, module.dilation, tuple(x.shape[2:]))
            found["conv", module.in_channels, module.out_channels, *sizes] += 1

    hooks = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    try:
        with torch.no_grad():
            model.eval()(*(x[:1] for x in example_inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass
class LayerTable:
    """Milliseconds by shape.

    Attributes:
        threads: of the runtime.
        entries: what was measured so far.
    """

    threads: int = 1
    entries: dict[Shape, float] = field(default_factory=dict)

    def total(self, shapes: Counter[Shape]) -> float:
        """Sum over the layers, in milliseconds; measures what the table lacks."""
        for shape in shapes:
            if shape not in self.entries:
                self.entries[shape] = self._measure(shape)
        return sum(self.entries[shape] * times for shape, times in shapes.items())

    def _measure(self, shape: Shape) -> float:
        import time

        import onnxruntime

        model, x = _conv(shape) if shape[0] == "conv" else _linear(shape)
        options = session_options(self.threads)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            session.run(None, {"x": x})
            times.append(time.perf_counter() - start)
        return float(np.median(times[CALLS // 4 :])) * 1000


def _conv(shape: Shape) -> tuple[onnx.ModelProto, np.ndarray]:
    _, inputs, outputs, groups, kernel, stride, padding, dilation, pixels = shape
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        group=groups,
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
    )
    return _model(node, (1, inputs, *pixels), (outputs, inputs // groups, *kernel))


def _linear(shape: Shape) -> tuple[onnx.ModelProto, np.ndarray]:
    _, inputs, outputs, rows = shape
    return _model(helper.make_node("MatMul", ["x", "w"], ["y"]), (rows, inputs), (inputs, outputs))


def _model(node: onnx.NodeProto, shape: tuple[int, ...], weight: tuple[int, ...]) -> tuple[onnx.ModelProto, np.ndarray]:
    random = np.random.default_rng(0)
    values = helper.make_tensor_value_info
    w = numpy_helper.from_array(random.standard_normal(weight).astype(np.float32), "w")
    ends = [values("x", TensorProto.FLOAT, shape)], [values("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "layer", *ends, [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model, random.standard_normal(shape).astype(np.float32)
