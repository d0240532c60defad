"""Counts of what the runtime computes in integers, in its own optimized graph, with the layers left in float by name."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from torch import Tensor, nn

from compress.errors import UserError
from compress.export import IMAGE_AXES, Signature, export_onnx
from compress.measure import integer_coverage
from compress.measure.coverage import NO_KERNEL, OF_ACTIVATIONS, Coverage, layer_name, operators_of
from compress.models.resnet import resnet18
from compress.quant.ptq import calibrate, prepare
from compress.quant.scheme import Scheme

SIGNATURE = Signature(("input",), ("logits",), (IMAGE_AXES,))
BY_OPTION = "left in float by option"


def coverage(model: nn.Module, x: Tensor, path: Path, *exclude: str) -> Coverage:
    graph_module, placement = prepare(model, (x,), Scheme(exclude), dynamic_shapes=SIGNATURE.dynamic_shapes)
    calibrate(graph_module, lambda: [(x,)], "minmax")
    export_onnx(graph_module, (x,), path, SIGNATURE)
    return integer_coverage(path, placement.left_in_float)


def some(coverage: Coverage) -> dict[str, tuple[int, int]]:
    """The kinds that there are any of."""
    return {kind: counts for kind, counts in coverage.counts.items() if counts[1]}


def test_resnet18_with_one_layer_in_float(tmp_path: Path) -> None:
    found = coverage(resnet18().eval(), torch.randn(2, 3, 32, 32), tmp_path / "m.onnx", "layer3.0.conv2")
    assert found.counts == {"conv": (19, 20), "linear": (1, 1), "product": (0, 0), "add": (8, 8), "embedding": (0, 0)}
    assert found.left_in_float == (("layer3.0.conv2", BY_OPTION),)
    assert str(found) == "19/20 conv, 1/1 linear, 8/8 add in int8"


@pytest.mark.parametrize(
    ("exclude", "counts", "left_in_float"),
    [
        # Two in a row, of which the first is merged with its ReLU; the addition behind them stays in integers.
        (
            "conv?",
            {"conv": (2, 4), "linear": (1, 1), "add": (1, 1)},
            {"conv1": BY_OPTION, "conv2": BY_OPTION},
        ),
        (
            "head",
            {"conv": (4, 4), "linear": (0, 1), "add": (0, 1)},
            {"head": BY_OPTION, "add behind conv2": "nothing that computes in integers reads it"},
        ),
    ],
)
def test_a_layer_left_in_float_is_named(
    exclude: str,
    counts: dict[str, tuple[int, int]],
    left_in_float: dict[str, str],
    residual_net: nn.Module,
    images: Tensor,
    tmp_path: Path,
) -> None:
    found = coverage(residual_net, images, tmp_path / "m.onnx", exclude)
    assert some(found) == counts
    assert dict(found.left_in_float) == left_in_float


def test_a_float_model_has_nothing_in_integers(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    export_onnx(residual_net, (images,), tmp_path / "m.onnx", SIGNATURE)
    found = integer_coverage(tmp_path / "m.onnx")
    # The runtime merged the addition into a convolution, so that none is left to count.
    assert some(found) == {"conv": (0, 4), "linear": (0, 1)}
    assert sorted(found.left_in_float) == [(name, NO_KERNEL) for name in ("conv1", "conv2", "head", "shortcut.0", "stem")]
    assert str(found) == "0/4 conv, 0/1 linear in int8"


def test_adding_a_constant_is_no_residual_connection(tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["": 20]> net (float[2,3] x) => (float[2,3] y) { z = Add(x, c)  y = Add(z, x) }'
    proto = parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "c"))
    for node in proto.graph.node:
        node.name = f"to {node.output[0]}"
    onnx.save(proto, tmp_path / "m.onnx")
    found = integer_coverage(tmp_path / "m.onnx")
    assert some(found) == {"add": (0, 1)}
    assert found.left_in_float == (("to y", "it adds what is float in this graph"),)


def network(body: str) -> onnx.ModelProto:
    """`body` between x, y and z of 4x4; stored are the matrix w, its codes, and a scale and a zero point for them."""
    text = f"""<ir_version: 9, opset_import: ["": 20, "com.microsoft": 1]>
        net (float[4,4] x, float[4,4] y) => (float[4,4] z) {{ {body} }}"""
    proto = parser.parse_model(text)
    codes, zero = np.arange(16, dtype=np.uint8).reshape(4, 4), np.uint8(8)
    arrays = {"w": codes.astype(np.float32), "codes": codes, "scale": np.float32(0.1), "zero": zero}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items())
    for node in proto.graph.node:
        node.name = f"to {node.output[0]}"
    return proto


SAME_VALUES = """a = QuantizeLinear(w, scale, zero)  b = DequantizeLinear(a, scale, zero)  c = Cast<to = 1>(b)  d = Transpose(c)
    e = Reshape(d, shape)  f = Unsqueeze(e, axes)  g = Squeeze(f, axes)  h = Identity(g)  """


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("product", "z = MatMul(x, y)"),
        ("product", "z = Gemm(x, y, w)"),
        ("linear", "z = Gemm(x, w, y)"),
        ("linear", "z = MatMul(x, w)"),
        ("linear", "z = MatMul(w, x)"),
        ("linear", SAME_VALUES + "z = MatMul(x, h)"),
        ("linear", "c = Constant<value_float = 2.0>()  z = MatMul(x, c)"),
        ("product", "f = DequantizeLinear(codes, scale, zero)  t = Mul(f, y)  z = MatMul(x, t)"),
        ("product", "s = Shape(y)  t = Expand(w, s)  z = MatMul(t, x)"),  # queries that are learned, one set for each sample
        ("product", "a = QuantizeLinear(x, scale, zero)  z = QLinearMatMul(a, scale, zero, a, scale, zero, scale, zero)"),
        ("linear", "a = QuantizeLinear(x, scale, zero)  z = QLinearMatMul(a, scale, zero, codes, scale, zero, scale, zero)"),
        ("product", "a = QuantizeLinear(x, scale, zero)  z = com.microsoft.QGemm(a, scale, zero, a, scale, zero)"),
        ("linear", "z = com.microsoft.DynamicQuantizeMatMul(x, codes, scale, zero)"),
        ("linear", "z = com.microsoft.MatMulNBits<K = 4, N = 4, bits = 4, block_size = 16>(x, codes, scale)"),
        ("linear", "z = LSTM<hidden_size = 1>(x, w, w)"),
        ("linear", "z = com.microsoft.DynamicQuantizeLSTM<hidden_size = 1>(x, codes, codes, , , , , scale, zero, scale, zero)"),
        ("product", "z = Attention(x, y, y)"),
        ("product", "z = com.microsoft.MultiHeadAttention<num_heads = 2>(x)"),  # queries, keys and values side by side
        ("linear", "z = com.microsoft.Attention<num_heads = 2>(x, w, w)"),  # with the layer in front
        ("linear", "z = com.microsoft.QAttention<num_heads = 2>(x, codes, w, scale, scale)"),
        ("add", "z = Add(x, y)"),
        ("add", "a = QuantizeLinear(x, scale, zero)  z = com.microsoft.QLinearAdd(a, scale, zero, a, scale, zero, scale, zero)"),
        ("nothing", "z = Add(x, w)"),
        ("nothing", "f = DequantizeLinear(codes, scale, zero)  z = Add(x, f)"),
        ("nothing", "z = com.microsoft.QLinearAdd(x, scale, zero, codes, scale, zero, scale, zero)"),
    ],
)
def test_what_two_computed_tensors_meet_in_is_told_from_a_layer(kind: str, body: str) -> None:
    found = {name: len(nodes) for name, nodes in operators_of(network(body).graph).items()}
    assert found == {"conv": 0, "linear": 0, "product": 0, "add": 0} | ({kind: 1} if kind != "nothing" else {})


ROUNDED = "{0}q = QuantizeLinear({0}, scale, zero)  {0}d = DequantizeLinear({0}q, scale, zero)  "
AT_RUN_TIME = "{0}q, {0}s, {0}z = DynamicQuantizeLinear({0})  "


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ("z = MatMul(x, y)", {"product": (0, 1)}),
        ("t = Transpose<perm = [1, 0]>(y)  z = MatMul(x, t)", {"product": (0, 1)}),  # FusedMatMul
        (
            ROUNDED.format("x") + ROUNDED.format("y") + "p = MatMul(xd, yd)  " + ROUNDED.format("p") + "z = Abs(pd)",
            {"product": (1, 1)},
        ),
        (
            AT_RUN_TIME.format("x") + AT_RUN_TIME.format("y") + "p = MatMulInteger(xq, yq, xz, yz)  "
            "f = Cast<to = 1>(p)  s = Mul(xs, ys)  z = Mul(f, s)",
            {"product": (1, 1)},
        ),
        (
            AT_RUN_TIME.format("x")
            + "p = MatMulInteger(xq, codes, xz, zero)  f = Cast<to = 1>(p)  s = Mul(xs, scale)  z = Mul(f, s)",
            {"linear": (1, 1)},
        ),
    ],
)
def test_products_are_counted_in_the_graph_that_is_executed(
    body: str, counts: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    onnx.save(network(body), tmp_path / "m.onnx")
    found = integer_coverage(tmp_path / "m.onnx")
    assert some(found) == counts
    assert [reason for _, reason in found.left_in_float] == [OF_ACTIVATIONS] * (counts == {"product": (0, 1)})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer1.0.conv1", "layer1.0.conv1"),
        ("layer1.0.conv1_token_12", "layer1.0.conv1"),
        ("layer1.0.conv1_nchwc", "layer1.0.conv1"),
    ],
)
def test_the_optimizers_endings_are_taken_off(name: str, expected: str) -> None:
    assert layer_name(onnx.helper.make_node("Conv", ["x"], ["y"], name=name)) == expected


def test_a_file_that_is_no_onnx_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(UserError) as error:
        integer_coverage(path)
    assert str(error.value) == (
        f"{path} cannot be opened by ONNX Runtime: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "
        f"Load model from {path} failed:Protobuf parsing failed."
    )
