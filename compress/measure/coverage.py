"""How much of a network ONNX Runtime really computes in integers, counted in the graph that it executes."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from compress.errors import UserError
from compress.measure.runtimes import session_options

# Operators of the optimized graph, by kind. A kind's integer and float forms together are all there are of it.
INTEGER_OPERATORS = {
    "conv": {"QLinearConv", "ConvInteger"},
    "linear": {"QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"},
    "add": {"QLinearAdd"},
}
FLOAT_OPERATORS = {
    "conv": {"Conv", "FusedConv", "NhwcFusedConv", "NhwcConv", "ConvTranspose"},
    # MatMulNBits has weights of few bits and computes in float, at the `accuracy_level` that `onnx_rewrites.nbits` writes.
    "linear": {"Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulNBits", "LSTM", "GRU", "RNN"},
    "add": {"Add"},
}

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
    """Count convolutions, linear layers and additions in the file that ONNX Runtime's optimizer writes for `path`.

    Args:
        reasons: for layers and operators known to stay in float, why; other layers get a general reason.
    """
    graph = optimized_graph(path).graph
    counts, left = {}, []
    computed = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    for kind in INTEGER_OPERATORS:
        done = sum(node.op_type in INTEGER_OPERATORS[kind] for node in graph.node)
        floats = [node for node in graph.node if node.op_type in FLOAT_OPERATORS[kind]]
        if kind == "add":  # adding a constant is a bias or an embedding, not a residual connection
            floats = [node for node in floats if all(name in computed for name in node.input)]
        counts[kind] = (done, done + len(floats))
        for node in floats:
            name = layer_name(node)
            left.append((name, (reasons or {}).get(name) or _reason(node, computed)))
    # A column, such as the scales of an integer table, is no table; nor are indices.
    kinds = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8)
    matrices = [tensor for tensor in graph.initializer if len(tensor.dims) == 2 and tensor.dims[1] > 1]
    types = {tensor.name: tensor.data_type for tensor in matrices if tensor.data_type in kinds}
    tables = {
        layer_name(node): types[node.input[0]] for node in graph.node if node.op_type == "Gather" and node.input[0] in types
    }
    floats = [name for name, kind in tables.items() if kind == TensorProto.FLOAT]
    counts["embedding"] = (len(tables) - len(floats), len(tables))
    left += [(name, (reasons or {}).get(name) or NO_KERNEL) for name in floats]
    # What has no integer form at all, such as GELU, is nothing to count, and the graph keeps no name for it.
    left += [(name, reason) for name, reason in (reasons or {}).items() if name not in dict(left)]
    return Coverage(counts, tuple(left))


def _reason(node: onnx.NodeProto, computed: set[str]) -> str:
    """Why an operator is computed in float, as far as the graph tells."""
    if node.op_type == "Add":
        return OF_FLOATS
    if node.op_type == "MatMulNBits":
        return WEIGHTS_ALONE
    of_activations = node.op_type in ("MatMul", "FusedMatMul") and all(name in computed for name in node.input)
    return OF_ACTIVATIONS if of_activations else NO_KERNEL


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
