"""The first convolution, with blocks of pixels moved into its channels."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_rewrites.graphs import RANDOM, conv, image, model, operators, rewritten, run

from compress.measure import integer_coverage


def stem(
    size: str = "height, width", kernel: int = 7, pads: str = "3,3,3,3", channels: int = 3, more: str = ""
) -> onnx.ModelProto:
    """A quantized convolution with stride 2 and its bias, 8 output channels, zero point of the image 100."""
    return model(
        f"float[2,{channels},{size}] image",
        "float[a,b,c,d] y",
        f"""q = QuantizeLinear(image, scale, zero)  x = DequantizeLinear(q, scale, zero)
            w = DequantizeLinear<axis = 0>(weight, weight_scale, weight_zero)
            b_ = DequantizeLinear<axis = 0>(bias, bias_scale)
            conv = Conv<strides = [2,2], pads = [{pads}]{more}>(x, w, b_)
            yq = QuantizeLinear(conv, wide, zero)  y = DequantizeLinear(yq, wide, zero)""",
        scale=np.float32(0.02),
        wide=np.float32(0.05),
        zero=np.uint8(100),
        weight=RANDOM.integers(-128, 128, (8, channels, kernel, kernel)).astype(np.int8),
        weight_scale=np.full(8, 0.003, np.float32),
        weight_zero=np.zeros(8, np.int8),
        bias=RANDOM.integers(-900, 900, 8).astype(np.int32),
        bias_scale=np.full(8, 0.00006, np.float32),
    )


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (16, 19), (17, 17)])
@pytest.mark.parametrize(
    ("kernel", "pads"),
    [
        (7, "3,3,3,3"),
        (7, "2,3,3,2"),
        (5, "2,2,2,2"),
        (6, "2,2,2,2"),
        (6, "0,0,0,0"),
        (8, "1,0,3,1"),
        (3, "1,1,1,1"),
        (3, "0,0,1,1"),
    ],
)
@pytest.mark.parametrize("dynamic", [True, False])
def test_blocks_of_pixels_give_the_same_integers(size: tuple[int, int], kernel: int, pads: str, dynamic: bool) -> None:
    proto = stem("height, width" if dynamic else f"{size[0]}, {size[1]}", kernel, pads)
    changed = rewritten(proto)
    assert operators(changed).count("SpaceToDepth") == 1
    x = image(2, 3, *size)
    np.testing.assert_array_equal(run(changed, x, optimized=True), run(proto, x, optimized=True))
    in_float = np.abs(run(changed, x) - run(proto, x))  # sums in another order: a value at half a step may round the other way
    assert in_float.max() < 0.051
    assert (in_float > 0.01).mean() < 0.01


@pytest.mark.parametrize(
    "proto",
    [
        stem(kernel=2, pads="0,0,0,0"),
        stem(channels=8),
        stem(more=", dilations = [2,2]"),
        stem(more=', auto_pad = "VALID"', pads="0,0,0,0"),
    ],
    ids=["small kernel", "many channels", "dilation", "automatic padding"],
)
def test_other_convolutions_keep_their_pixels(proto: onnx.ModelProto) -> None:
    assert "SpaceToDepth" not in operators(rewritten(proto))


def test_blocks_of_a_weight_that_was_stored_a_moment_before() -> None:
    proto = conv(weight=RANDOM.standard_normal((4, 3, 5, 5)).astype(np.float32))
    node = next(node for node in proto.graph.node if node.op_type == "Conv")
    node.attribute.append(onnx.helper.make_attribute("strides", [2, 2]))
    del proto.graph.value_info[:]
    changed = rewritten(proto)
    assert "SpaceToDepth" in operators(changed)
    x = image()
    np.testing.assert_array_equal(run(changed, x, optimized=True), run(proto, x, optimized=True))


def test_the_first_convolution_is_still_one_integer_operator_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "stem.onnx"
    proto = rewritten(stem())
    onnx.save(proto, path)
    assert [layer for layer in integer_coverage(path).counts.items() if layer[1][1]] == [("conv", (1, 1))]
