"""Small ONNX graphs written down, the runtime's answers to them, and their rewritten form."""

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser, shape_inference

from compress.onnx_rewrites import rewrite

RANDOM = np.random.default_rng(0)
IMAGE = "float[2,3,6,6] image"


def model(inputs: str, output: str, nodes: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A model in ONNX's own text format; `constants` become initializers, a double underscore in a name a dot."""
    text = f'<ir_version: 9, opset_import: ["": 20]> net ({inputs}) => ({output}) {{ {nodes} }}'
    proto = parser.parse_model(text)
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    proto.graph.initializer.extend(stored)
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"node_{number}"
    return shape_inference.infer_shapes(proto)


def run(proto: onnx.ModelProto, *inputs: np.ndarray, optimized: bool = False) -> np.ndarray:
    """The runtime's output, by default with its own optimizations switched off: what the graph says, nothing else."""
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([i.name for i in session.get_inputs()], inputs, strict=True)))[0]


def rewritten(proto: onnx.ModelProto, *, amx: bool = False) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    rewrite(copy, amx=amx)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def image(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape or (2, 3, 6, 6)).astype(np.float32)


def axes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def conv(bias: bool = False, weight_scale: np.ndarray | None = None, **changed: np.ndarray) -> onnx.ModelProto:
    """Image and weight through Q and DQ, a convolution, and its output through Q and DQ."""
    nodes = f"""
        q = QuantizeLinear(image, s, z)  x = DequantizeLinear(q, s, z)
        v = QuantizeLinear <axis=0> (weight, ws, wz)  w = DequantizeLinear <axis=0> (v, ws, wz)
        y = Conv(x, w{", bias" if bias else ""})
        r = QuantizeLinear(y, t, z)  out = DequantizeLinear(r, t, z)
    """
    weight = RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32)
    weight_scale = np.abs(weight).reshape(4, -1).max(1) / np.float32(127) if weight_scale is None else weight_scale
    constants: dict[str, np.ndarray] = {
        "s": np.float32(0.03),
        "t": np.float32(0.2),
        "z": np.uint8(128),
        "weight": weight,
        "ws": weight_scale,
        "wz": np.zeros(weight_scale.shape, np.int8),
        **({"bias": np.float32([0.5, -2.0, 0.0, 1e-3])} if bias else {}),
        **changed,
    }
    size = "4,4" if constants["weight"].shape[2] == 3 else "1,1"
    return model(IMAGE, f"float[2,4,{size}] out", nodes, **constants)
