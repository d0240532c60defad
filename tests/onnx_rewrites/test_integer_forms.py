"""Rewrites of integer padding, linear layers, look-ups and attention: same output of the runtime before and after."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser, shape_inference

from compress.onnx_rewrites.attention import guard_after_values
from compress.onnx_rewrites.embedding import gather_integers
from compress.onnx_rewrites.gemm import linear_as_gemm
from compress.onnx_rewrites.graph import Graph
from compress.onnx_rewrites.masks import bound_masks
from compress.onnx_rewrites.padding import fold_padding

RANDOM = np.random.default_rng(0)
SCALE, ZERO = np.float32(0.05), np.uint8(100)


def model(inputs: str, output: str, nodes: str, **constants: Any) -> onnx.ModelProto:
    text = f'<ir_version: 9, opset_import: ["": 20]> net ({inputs}) => ({output}) {{ {nodes} }}'
    proto = parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    for number, node in enumerate(proto.graph.node):
        node.name = f"node_{number}"
    return shape_inference.infer_shapes(proto)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def after(proto: onnx.ModelProto, rewrite: Callable[[Graph], None]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = Graph(copy)
    rewrite(graph)
    graph.remove_unused()
    onnx.checker.check_model(copy, full_check=True)
    return copy


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def codes(*shape: int) -> np.ndarray:
    return RANDOM.integers(-127, 128, shape).astype(np.int8)


def padded(pads: list[int], value: int = 100, mode: str = "constant", conv: str = "pads=[0,1,2,0]") -> onnx.ModelProto:
    return model(
        "uint8[2,3,7,7] x",
        "float[n,4,h,w] y",
        f"""padded = Pad <mode="{mode}"> (x, pads, value)
        image = DequantizeLinear(padded, scale, zero)
        weight = DequantizeLinear(w, scale, wzero)
        y = Conv <{conv}> (image, weight)""",
        pads=np.array(pads, np.int64),
        value=np.uint8(value),
        scale=SCALE,
        zero=ZERO,
        wzero=np.int8(0),
        w=codes(4, 3, 3, 3),
    )


def test_padding_with_zeros_is_left_to_the_convolution() -> None:
    x = RANDOM.integers(0, 256, (2, 3, 7, 7)).astype(np.uint8)
    before = padded([0, 0, 0, 1, 0, 0, 2, 3])
    done = after(before, fold_padding)
    assert sorted(operators(done)) == ["Conv", "DequantizeLinear", "DequantizeLinear"]
    assert np.array_equal(run(done, x), run(before, x))


@pytest.mark.parametrize(
    "before",
    [
        padded([0, 0, 1, 1, 0, 0, 1, 1], value=99),
        padded([0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"),
        padded([0, 0, -1, 0, 0, 0, 1, 1]),
        padded([0, 0, 1, 1, 1, 0, 1, 1]),
        padded([0, 0, 1, 1, 0, 0, 1, 1], conv='auto_pad="SAME_UPPER"'),
    ],
    ids=["not zero", "reflection", "cropped", "another axis", "padding by its own rule"],
)
def test_other_padding_stays(before: onnx.ModelProto) -> None:
    assert operators(after(before, fold_padding)) == operators(before)


def test_a_padded_tensor_that_others_read_is_padded_for_them_alone() -> None:
    before = model(
        "uint8[1,1,4,4] x",
        "float[1,1,4,4] y, uint8[1,1,6,6] z",
        """padded = Pad(x, pads, zero)
        image = DequantizeLinear(padded, scale, zero)
        weight = DequantizeLinear(w, scale, wzero)
        y = Conv(image, weight)
        z = Identity(padded)""",
        **{"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "scale": SCALE, "zero": ZERO, "wzero": np.int8(0), "w": codes(1, 1, 3, 3)},
    )
    x = RANDOM.integers(0, 256, (1, 1, 4, 4)).astype(np.uint8)
    done = after(before, fold_padding)
    assert sorted(operators(done)) == ["Conv", "DequantizeLinear", "DequantizeLinear", "Identity", "Pad"]
    assert np.array_equal(run(done, x), run(before, x))


def linear(rows: str = "batch,5", bias: tuple[int, ...] = (6,)) -> onnx.ModelProto:
    return model(
        f"float[{rows},4] x",
        f"float[{rows},6] y",
        """integers = QuantizeLinear(x, scale, zero)
        input = DequantizeLinear(integers, scale, zero)
        rows = DequantizeLinear <axis=0> (w, scales, wzero)
        weight = Transpose <perm=[1,0]> (rows)
        product = MatMul(input, weight)
        y = Add(product, bias)""",
        scale=SCALE,
        zero=ZERO,
        w=codes(6, 4),
        scales=RANDOM.random(6).astype(np.float32),
        wzero=np.zeros(6, np.int8),
        bias=RANDOM.standard_normal(bias).astype(np.float32),
    )


@pytest.mark.parametrize(("rows", "shape"), [("batch,5", (2, 5)), ("batch,2,5", (3, 2, 5))])
def test_a_linear_layer_on_many_axes_becomes_a_gemm(rows: str, shape: tuple[int, ...]) -> None:
    before, x = linear(rows), RANDOM.standard_normal((*shape, 4)).astype(np.float32)
    done = after(before, linear_as_gemm)
    assert [name for name in operators(done) if "Linear" not in name] == ["Reshape", "Gemm", "Reshape"]
    assert run(done, x) == pytest.approx(run(before, x), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    "before", [linear("batch,length"), linear("5"), linear(bias=(5, 6))], ids=["free length", "two axes", "another sum"]
)
def test_other_products_stay(before: onnx.ModelProto) -> None:
    assert operators(after(before, linear_as_gemm)) == operators(before)


def look_up(axis: int = 0, zero: int = 0) -> onnx.ModelProto:
    return model(
        "int64[2,3] x",
        "float[a,b,c] y",
        f"""table = DequantizeLinear <axis={axis}> (w, scales, zeros)
        y = Gather <axis={axis}> (table, x)""",
        w=codes(9, 9),
        scales=RANDOM.random(9).astype(np.float32),
        zeros=np.full(9, zero, np.int8),
    )


def test_a_look_up_fetches_integers() -> None:
    before, x = look_up(), RANDOM.integers(0, 9, (2, 3))
    done = after(before, gather_integers)
    assert operators(done) == ["Gather", "Gather", "Cast", "Mul"]
    assert np.array_equal(run(done, x), run(before, x))


@pytest.mark.parametrize("before", [look_up(axis=1), look_up(zero=3)], ids=["columns", "zero points"])
def test_other_look_ups_stay(before: onnx.ModelProto) -> None:
    assert operators(after(before, gather_integers)) == operators(before)


def attention(guarded: str = "softmax", result: str = "guard") -> onnx.ModelProto:
    return model(
        "float[2,4,4] x",
        "float[2,4,3] y",
        f"""softmax = Softmax <axis=-1> (x)
        isnan = IsNaN({guarded})
        guard = Where(isnan, zero, softmax)
        y = MatMul({result}, values)""",
        zero=np.float32(0),
        values=RANDOM.standard_normal((2, 4, 3)).astype(np.float32),
    )


def test_the_guard_of_an_attention_moves_behind_its_product() -> None:
    before, x = attention(), RANDOM.standard_normal((2, 4, 4)).astype(np.float32)
    x[1, 2] = np.nan  # the only way to a NaN in this runtime's softmax
    done = after(before, guard_after_values)
    assert operators(done) == ["Softmax", "MatMul", "IsNaN", "Where"]
    expected = run(before, x)
    assert (expected[1, 2] == 0).all()
    assert np.array_equal(run(done, x), expected)


def test_a_guard_of_something_else_stays() -> None:
    before = attention(guarded="x")
    assert operators(after(before, guard_after_values)) == operators(before)


LOWEST = np.finfo(np.float32).min
KEPT = np.array([True, True, True, False, False])
BETWEEN = "wide = Unsqueeze(mask, axes) sum = Add(x, wide)"


def masked(
    value: float = float(LOWEST), order: str = "keep, zero, low", nodes: str = BETWEEN, extra: str = ""
) -> onnx.ModelProto:
    """Scores, of which the last two keys are masked by adding `value`, and their softmax."""
    return model(
        "float[2,4,5] x",
        "float[2,4,5] y",
        f"mask = Where({order}) {nodes} {extra} y = Softmax <axis=-1> (sum)",
        keep=KEPT if order.startswith("keep") else ~KEPT,
        drop=~KEPT,
        zero=np.float32(0),
        low=np.float32(value),
        axes=np.array([0, 1]),
    )


@pytest.mark.parametrize("order", ["keep, zero, low", "drop, low, zero"])
def test_masks_are_bounded_where_a_softmax_reads_them(order: str) -> None:
    before, x = masked(order=order), (20 * RANDOM.standard_normal((2, 4, 5))).astype(np.float32)
    x[..., 3:] = x[..., :3].max(-1, keepdims=True) + 1  # the masked keys would win
    done = after(before, bound_masks)
    found = run(done, x)
    assert np.allclose(found, run(before, x), rtol=1e-6, atol=1e-20)
    assert (found[..., 3:] > np.finfo(np.float32).tiny).all()  # normal numbers
    assert operators(done) == operators(before)


@pytest.mark.parametrize(
    "before",
    [
        masked(value=-np.inf),  # rows without a key are NaN then, and guarded
        masked(value=-1000.0),
        masked(nodes="wide = Unsqueeze(mask, axes) sum = Mul(x, wide)"),
        masked(extra="other = Sigmoid(sum)"),
        masked(extra="other = Sigmoid(mask)"),
    ],
    ids=["infinity", "another number", "no sum", "read by another", "mask read by another"],
)
def test_other_choices_between_two_numbers_stay(before: onnx.ModelProto) -> None:
    assert after(before, bound_masks).graph.node[0].input == before.graph.node[0].input
