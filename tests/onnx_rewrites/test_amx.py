"""Convolutions stored for the matrix unit: other codes and zero points, and the same integers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_rewrites.graphs import RANDOM, model, operators, rewritten, run

from compress.measure import integer_coverage

SIZE = 5


def quantized(shape: tuple[int, ...] = (64, 512, 1, 1), *, groups: int = 1, lowest: int = -127, zero: int = 0) -> onnx.ModelProto:
    """A convolution between integers, its weight a constant of int8 codes with a scale per channel."""
    outputs, inputs = shape[0], shape[1] * groups
    return model(
        f"float[2,{inputs},{SIZE},{SIZE}] x",
        "float[a,b,c,d] y",
        f"""q = QuantizeLinear(x, scale, zero)  xq = DequantizeLinear(q, scale, zero)
            w = DequantizeLinear<axis = 0>(weight, weight_scale, weight_zero)
            conv = Conv<group = {groups}>(xq, w)
            yq = QuantizeLinear(conv, wide, zero)  y = DequantizeLinear(yq, wide, zero)""",
        scale=np.float32(0.02),
        wide=np.float32(0.05),
        zero=np.uint8(100),
        weight=np.concatenate([[lowest, 127], RANDOM.integers(lowest, 128, np.prod(shape) - 2)]).reshape(shape).astype(np.int8),
        weight_scale=np.full(outputs, 0.003, np.float32),
        weight_zero=np.full(outputs, zero, np.int8),
    )


def zero_points(proto: onnx.ModelProto) -> list[int]:
    """The zero points of weights."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    weights = [node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    return sorted({int(zero) for node in weights for zero in constants[node.input[2]].ravel()})


@pytest.mark.parametrize("shape", [(64, 512, 1, 1), (64, 96, 3, 3), (256, 32, 3, 3)])
@pytest.mark.parametrize("optimized", [True, False])
def test_every_integer_that_comes_out_stays(shape: tuple[int, ...], optimized: bool) -> None:
    proto = quantized(shape)
    changed = rewritten(proto, amx=True)
    assert zero_points(changed) == [-1]
    assert operators(changed) == operators(proto)
    x = RANDOM.standard_normal((2, shape[1], SIZE, SIZE)).astype(np.float32)
    np.testing.assert_array_equal(run(changed, x, optimized=optimized), run(proto, x, optimized=optimized))


def test_the_runtime_still_computes_it_in_integers(tmp_path: Path) -> None:
    path = tmp_path / "conv.onnx"
    onnx.save(rewritten(quantized(), amx=True), path)
    assert [layer for layer in integer_coverage(path).counts.items() if layer[1][1]] == [("conv", (1, 1))]


@pytest.mark.parametrize(
    "proto",
    [
        quantized((256, 128, 1, 1)),
        quantized((32, 256, 3, 3)),
        quantized((64, 1, 3, 3), groups=64),
        quantized(lowest=-128),
        quantized(zero=3),
    ],
    ids=["few inputs", "few outputs", "depthwise", "no room for a code", "another zero point"],
)
def test_what_gains_nothing_or_has_no_room_stays(proto: onnx.ModelProto) -> None:
    assert rewritten(proto, amx=True) == rewritten(proto)


def test_a_weight_that_two_convolutions_read_stays() -> None:
    proto = quantized()
    again = onnx.NodeProto()
    again.CopyFrom(next(node for node in proto.graph.node if node.op_type == "Conv"))
    again.name, again.output[0] = "again", "again"
    proto.graph.node.append(again)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("again", onnx.TensorProto.FLOAT, [2, 64, SIZE, SIZE]))
    assert zero_points(rewritten(proto, amx=True)) == [0]


def test_nothing_is_moved_unless_asked() -> None:
    assert zero_points(rewritten(quantized())) == [0]
