"""How much of a network ONNX Runtime really computes in integers, counted in the graph that it executes."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from compress.errors import UserError
from compress.measure.runtimes import session_options

# Operators of the optimized graph -> kind. A kind's integer and float forms together are all there are of it.
IN_INTEGERS = {
    **dict.fromkeys(("QLinearConv", "ConvInteger"), "conv"),
    **dict.fromkeys(("QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), "linear"),
    **dict.fromkeys(("DynamicQuantizeLSTM", "QAttention"), "linear"),
    "QLinearAdd": "add",
}
IN_FLOAT = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "NhwcConv", "ConvTranspose"), "conv"),
    # MatMulNBits has weights of few bits and computes in float, at the `accuracy_level` that `onnx_rewrites.nbits` writes.
    **dict.fromkeys(("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulNBits", "LSTM", "GRU", "RNN"), "linear"),
    **dict.fromkeys(("Attention", "MultiHeadAttention", "GroupQueryAttention"), "linear"),
    "Add": "add",
}
KIND_OF = IN_INTEGERS | IN_FLOAT
# Where an operator's second operand stands, if not behind the first: scale and zero point of the first are between them.
SECOND = {"QGemm": 3, "QLinearMatMul": 3, "QLinearAdd": 3}
# What gives out the values of its first input, in another type or shape.
KEEPS_VALUES = {"Cast", "DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"}

NO_KERNEL = "ONNX Runtime has no integer kernel for it as it stands in this graph"
OF_ACTIVATIONS = "a product of two activations, as in an attention"
OF_FLOATS = "it adds what is float in this graph"
WEIGHTS_ALONE = "its weights are stored as integers, and computed with in float"


@dataclass(frozen=True)
class Coverage:
    """`counts`: kind -> (in int8, total); `left_in_float`: (layer, reason) for the difference, and for other operators."""

    counts: dict[str, tuple[int, int]]
    left_in_float: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{done}/{total} {kind}" for kind, (done, total) in self.counts.items() if total) + " in int8"


def integer_coverage(path: Path | str, reasons: Mapping[str, str] | None = None) -> Coverage:
    """Count the operators of each kind in the graph that ONNX Runtime's optimizer writes for `path`.

    Kinds: `conv`; `linear`, which reads a stored weight; `product` of two matrices and `add` of two tensors that are both
    computed, as in an attention and at a residual connection; `embedding`.

    Args:
        reasons: for layers and operators known to stay in float, why; other layers get a general reason.
    """
    graph = optimized_graph(path).graph
    counts, left = {}, []
    for kind, nodes in operators_of(graph).items():
        floats = [node for node in nodes if node.op_type not in IN_INTEGERS]
        counts[kind] = (len(nodes) - len(floats), len(nodes))
        for node in floats:
            name = layer_name(node)
            left.append((name, (reasons or {}).get(name) or _reason(kind, node)))
    # A column, such as the scales of an integer table, is no table; nor are indices.
    kinds = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8)
    matrices = [tensor for tensor in graph.initializer if len(tensor.dims) == 2 and tensor.dims[1] > 1]
    types = {tensor.name: tensor.data_type for tensor in matrices if tensor.data_type in kinds}
    tables = {
        layer_name(node): types[node.input[0]] for node in graph.node if node.op_type == "Gather" and node.input[0] in types
    }
    unrounded = [name for name, kind in tables.items() if kind == TensorProto.FLOAT]
    counts["embedding"] = (len(tables) - len(unrounded), len(tables))
    left += [(name, (reasons or {}).get(name) or NO_KERNEL) for name in unrounded]
    # What has no integer form at all, such as GELU, is nothing to count, and the graph keeps no name for it.
    left += [(name, reason) for name, reason in (reasons or {}).items() if name not in dict(left)]
    return Coverage(counts, tuple(left))


def operators_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Kind -> the operators to count, in integers or not; sums with a constant, such as a bias, are none.

    An attention in one operator counts once: as `linear` if it holds the layer in front, whose weight it reads, or else as
    `product`.
    """
    stored = _stored_tensors(graph)
    found: dict[str, list[onnx.NodeProto]] = {kind: [] for kind in ("conv", "linear", "product", "add")}
    for node in graph.node:
        if (kind := KIND_OF.get(node.op_type)) is None:
            continue
        second = SECOND.get(node.op_type, 1)
        computed = stored.isdisjoint((node.input[0], *node.input[second : second + 1]))
        if kind == "linear" and computed:
            kind = "product"
        if kind != "add" or computed:
            found[kind].append(node)
    return found


def _stored_tensors(graph: onnx.GraphProto) -> set[str]:
    """Names of weights and other constants, and of the same in another type or shape."""
    stored = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" or (node.op_type in KEEPS_VALUES and node.input[0] in stored):
            stored.update(node.output)
    return stored


def _reason(kind: str, node: onnx.NodeProto) -> str:
    """Why an operator is computed in float, as far as the graph tells."""
    if node.op_type == "MatMulNBits":
        return WEIGHTS_ALONE
    return {"product": OF_ACTIVATIONS, "add": OF_FLOATS}.get(kind, NO_KERNEL)


def layer_name(node: onnx.NodeProto) -> str:
    """The name a node had before optimization, which appends `_token_N` and the like."""
    name = node.name or (node.output[0] if node.output else node.op_type)
    return name.split("_token_")[0].removesuffix("_nchwc").removesuffix("_nhwc")


def optimized_graph(path: Path | str) -> onnx.ModelProto:
    """The graph that ONNX Runtime's CPU provider executes for a file, as the runtime itself writes it down."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(1)
        written = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(written)
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own kinds, which share no public base
            raise UserError(f"{path} cannot be opened by ONNX Runtime: {str(error).splitlines()[0]}") from None
        return onnx.load(str(written))
