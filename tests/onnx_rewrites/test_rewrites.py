"""Each rewrite on a graph written down here: the runtime's output before is its output after, and the operators are the wanted ones."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_rewrites.graphs import IMAGE, axes, conv, image, model, operators, rewritten, run

from compress.measure.coverage import optimized_graph
from compress.onnx_rewrites.graph import Graph

# ReduceMean -> GlobalAveragePool


@pytest.mark.parametrize("over", [(2, 3), (3, 2), (-1, -2)])
@pytest.mark.parametrize("keep", [1, 0])
def test_a_mean_of_all_pixels_becomes_a_pool(keep: int, over: tuple[int, ...]) -> None:
    nodes = f"mean = ReduceMean <keepdims={keep}> (image, axes)  out = Identity(mean)"
    proto, x = model(IMAGE, "float[] out".replace("[]", "[2,3,1,1]" if keep else "[2,3]"), nodes, axes=axes(*over)), image()
    after = rewritten(proto)
    assert operators(after) == (["GlobalAveragePool", "Identity"] if keep else ["GlobalAveragePool", "Flatten", "Identity"])
    assert run(after, x) == pytest.approx(run(proto, x), abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "over", "result"),
    [
        ("2,3,6,6", (1,), "2,1,6,6"),
        ("2,3,6,6", (1, 2, 3), "2,1,1,1"),
        ("2,3,6,6", (3,), "2,3,6,1"),
        ("2,3,6", (1, 2), "2,1,1"),
        ("2,3,4,5,6", (3, 4), "2,3,4,1,1"),
        ("2,3,4,5,6", (2, 3), "2,3,1,1,6"),
    ],
)
def test_a_mean_over_other_axes_stays(shape: str, over: tuple[int, ...], result: str) -> None:
    nodes = "mean = ReduceMean (image, axes)  out = Identity(mean)"
    proto = model(f"float[{shape}] image", f"float[{result}] out", nodes, axes=axes(*over))
    after, x = rewritten(proto), image(*map(int, shape.split(",")))
    assert operators(after) == ["ReduceMean", "Identity"]
    assert np.array_equal(run(after, x), run(proto, x))


def test_a_mean_over_computed_axes_stays() -> None:
    nodes = "mean = ReduceMean (image, axes)  out = Identity(mean)"
    after = rewritten(model(f"{IMAGE}, int64[2] axes", "float[2,3,1,1] out", nodes))
    assert operators(after) == ["ReduceMean", "Identity"]


def test_a_quantized_mean_without_kept_axes_is_quantized_before_it_is_flattened(tmp_path: Path) -> None:
    nodes = """
        q = QuantizeLinear(image, s, z)  x = DequantizeLinear(q, s, z)
        mean = ReduceMean <keepdims=0> (x, axes)
        r = QuantizeLinear(mean, t, z)  out = DequantizeLinear(r, t, z)
    """
    constants = {"s": np.float32(0.03), "t": np.float32(0.005), "z": np.uint8(128)}
    proto, x = model(IMAGE, "float[2,3] out", nodes, axes=axes(2, 3), **constants), image()
    after = rewritten(proto)
    assert operators(after) == [
        *("QuantizeLinear", "DequantizeLinear", "GlobalAveragePool"),
        *("QuantizeLinear", "DequantizeLinear", "Flatten", "QuantizeLinear", "DequantizeLinear"),
    ]
    assert np.array_equal(run(after, x), run(proto, x))
    onnx.save(after, tmp_path / "mean.onnx")
    assert "QLinearGlobalAveragePool" in operators(optimized_graph(tmp_path / "mean.onnx"))


# Quantized constants


@pytest.mark.parametrize("scale", [None, np.float32(0.02)], ids=["per channel", "per tensor"])
def test_a_quantized_weight_is_stored_as_integers(scale: np.ndarray | None) -> None:
    proto, x = conv(weight_scale=scale), image()
    after = rewritten(proto)
    stored = {tensor.name: tensor for tensor in after.graph.initializer}
    assert "weight" not in stored
    assert stored["weight_int"].data_type == onnx.TensorProto.INT8
    assert Counter(operators(after)) == {"QuantizeLinear": 2, "DequantizeLinear": 3, "Conv": 1}
    assert np.array_equal(run(after, x), run(proto, x))


def test_codes_of_a_weight_round_halves_to_even_and_are_clipped() -> None:
    weight = np.zeros((4, 3, 3, 3), np.float32)
    weight[:, 0, 0, 0] = [0.5, 1.5, -300.0, 300.0]
    after = rewritten(conv(weight_scale=np.ones(4, np.float32), weight=weight))
    assert Graph(after).array("weight_int")[:, 0, 0, 0].tolist() == [0, 2, -128, 127]


def test_the_bias_of_an_integer_layer_is_stored_as_integers() -> None:
    proto, x = conv(bias=True), image()
    after = rewritten(proto)
    graph = Graph(after)
    layer = next(node for node in after.graph.node if node.op_type == "Conv")
    dequantize = graph.producer[layer.input[2]]
    codes, scale = (graph.array(name) for name in dequantize.input[:2])
    assert codes.dtype == np.int32
    assert scale == pytest.approx(np.float32(0.03) * graph.array("ws"))
    assert codes * scale == pytest.approx([0.5, -2.0, 0.0, 1e-3], abs=float(scale.max()) / 2)
    assert "bias" not in graph.initializers
    # The bias was rounded to half a step of the sums; the output has steps of 0.2.
    assert np.abs(run(after, x) - run(proto, x)).max() <= 0.2001
    assert np.mean(run(after, x) == run(proto, x)) > 0.98


def test_the_bias_of_a_gemm_too() -> None:
    nodes = """
        q = QuantizeLinear(numbers, s, z)  x = DequantizeLinear(q, s, z)
        v = QuantizeLinear <axis=0> (weight, ws, wz)  w = DequantizeLinear <axis=0> (v, ws, wz)
        out = Gemm <transB=1> (x, w, bias)
    """
    proto = model(
        "float[5,8] numbers",
        "float[5,3] out",
        nodes,
        s=np.float32(0.02),
        z=np.uint8(100),
        ws=np.float32([0.01, 0.02, 0.03]),
        wz=np.zeros(3, np.int8),
        weight=image(3, 8),
        bias=np.float32([1, 2, 3]),
    )
    after, x = rewritten(proto), image(5, 8)
    assert Counter(operators(after)) == {"QuantizeLinear": 1, "DequantizeLinear": 3, "Gemm": 1}
    assert run(after, x) == pytest.approx(run(proto, x), abs=0.02 * 0.03 / 2 + 1e-5)


def test_a_bias_too_large_for_its_steps_stays_float() -> None:
    proto, x = conv(bias=True, weight_scale=np.float32([1e-12, 0.02, 0.02, 0.02])), image()
    after = rewritten(proto)
    layer = next(node for node in after.graph.node if node.op_type == "Conv")
    assert layer.input[2] == "bias"
    assert np.array_equal(run(after, x), run(proto, x))


def test_one_bias_of_two_layers_becomes_two() -> None:
    nodes = """
        q = QuantizeLinear(image, s, z)  x = DequantizeLinear(q, s, z)
        v = QuantizeLinear(weight, t, wz)  w = DequantizeLinear(v, t, wz)
        a = Conv(x, w, bias)
        p = QuantizeLinear(a, t, z)  y = DequantizeLinear(p, t, z)
        b = Conv(y, w, bias)
        out = Conv(y, w, bias)
    """
    constants = {"s": np.float32(0.03), "t": np.float32(0.1), "z": np.uint8(128), "wz": np.int8(0)}
    weight, bias = image(3, 3, 3, 3), np.float32([1, -1, 0.5])
    proto, x = model(IMAGE, "float[2,3,2,2] out", nodes, weight=weight, bias=bias, **constants), image()
    after = rewritten(proto)
    assert sum(tensor.data_type == onnx.TensorProto.INT32 for tensor in after.graph.initializer) == 2
    assert np.abs(run(after, x) - run(proto, x)).max() < 0.2  # a step of 0.1 in front, through the second convolution


def test_a_float_layer_keeps_its_constants() -> None:
    proto = model(IMAGE, "float[2,4,4,4] out", "out = Conv(image, weight, bias)", weight=image(4, 3, 3, 3), bias=image(4))
    after, x = rewritten(proto), image()
    assert operators(after) == ["Conv"]
    assert np.array_equal(run(after, x), run(proto, x))


# DQ, Pad, Q


def padding(
    value: float = 0.0, out_scale: float = 0.03, zero: int = 100, more: str = "", mode: str = "constant"
) -> onnx.ModelProto:
    nodes = f"""
        q = QuantizeLinear(image, s, z)  x = DequantizeLinear(q, s, z)
        y = Pad <mode="{mode}"> (x, pads, value)
        r = QuantizeLinear(y, t, z)  {more} out = DequantizeLinear(r, t, z)
    """
    constants = {"s": np.float32(0.03), "t": np.float32(out_scale), "z": np.uint8(zero), "value": np.float32(value)}
    return model(IMAGE, "float[2,7,7,8] out", nodes, pads=axes(0, 2, 1, 0, 0, 2, 0, 2), **constants)


@pytest.mark.parametrize("zero", [0, 100, 255])
def test_zeros_are_padded_in_integers(zero: int) -> None:
    proto, x = padding(zero=zero), image()
    after = rewritten(proto)
    assert operators(after) == ["QuantizeLinear", "Pad", "DequantizeLinear"]
    assert np.array_equal(run(after, x), run(proto, x))


def test_reflection_is_padded_in_integers() -> None:
    proto, x = padding(mode="reflect"), image()
    after = rewritten(proto)
    assert operators(after) == ["QuantizeLinear", "Pad", "DequantizeLinear"]
    assert np.array_equal(run(after, x), run(proto, x))


def test_the_axes_of_a_padding_are_kept() -> None:
    nodes = """
        q = QuantizeLinear(image, s, z)  x = DequantizeLinear(q, s, z)
        y = Pad (x, pads, value, only)
        r = QuantizeLinear(y, s, z)  out = DequantizeLinear(r, s, z)
    """
    constants = {"s": np.float32(0.03), "z": np.uint8(9), "value": np.float32(0), "pads": axes(1, 1), "only": axes(1)}
    proto, x = model(IMAGE, "float[2,5,6,6] out", nodes, **constants), image()
    after = rewritten(proto)
    assert operators(after) == ["QuantizeLinear", "Pad", "DequantizeLinear"]
    assert np.array_equal(run(after, x), run(proto, x))


@pytest.mark.parametrize(
    "proto",
    [padding(value=1.0), padding(out_scale=0.04), padding(more="out2 = Identity(y)")],
    ids=["padding with ones", "another scale behind", "a second reader"],
)
def test_other_paddings_stay(proto: onnx.ModelProto) -> None:
    if any("out2" in node.output for node in proto.graph.node):
        proto.graph.output.append(onnx.helper.make_tensor_value_info("out2", onnx.TensorProto.FLOAT, [2, 7, 7, 8]))
    after, x = rewritten(proto), image()
    assert operators(after) == operators(proto)
    assert np.array_equal(run(after, x), run(proto, x))


# Float layers between integers


def float_layer() -> onnx.ModelProto:
    """Q and DQ around a convolution whose weight stays float."""
    nodes = """
        q = QuantizeLinear(image, s, z)  x = DequantizeLinear(q, s, z)
        y = Conv(x, weight, bias)  relu = Relu(y)
        r = QuantizeLinear(relu, t, u)  out = DequantizeLinear(r, t, u)
    """
    constants = {"s": np.float32(0.03), "t": np.float32(0.01), "z": np.uint8(128), "u": np.uint8(0)}
    return model(IMAGE, "float[2,4,4,4] out", nodes, weight=image(4, 3, 3, 3) / 3, bias=image(4), **constants)


def test_a_float_layer_between_integers_stays_float_in_the_runtime() -> None:
    proto, x = float_layer(), image()
    after, expected = rewritten(proto), run(proto, x)
    assert Counter(operators(after)) == Counter(operators(proto)) + Counter({"Clip": 1})
    assert np.array_equal(run(after, x), expected)
    assert np.mean(run(after, x, optimized=True) == expected) > 0.99
    changed = np.mean(run(proto, x, optimized=True) != expected)
    assert changed > 0.1, "the runtime no longer quantizes float layers by itself: keep_in_float can go"


def test_a_float_layer_with_a_float_reader_needs_no_shield() -> None:
    nodes = "q = QuantizeLinear(image, s, z)  x = DequantizeLinear(q, s, z)  out = Conv(x, weight)"
    proto = model(IMAGE, "float[2,4,4,4] out", nodes, s=np.float32(0.03), z=np.uint8(128), weight=image(4, 3, 3, 3))
    assert operators(rewritten(proto)) == ["QuantizeLinear", "DequantizeLinear", "Conv"]


# Names


def test_layers_are_named_after_the_module_of_their_weight() -> None:
    nodes = """
        q = QuantizeLinear(image, s, z)  x = DequantizeLinear(q, s, z)
        v = QuantizeLinear(stem__conv__weight, t, wz)  w = DequantizeLinear(v, t, wz)
        a = Conv <pads=[1,1,1,1]> (x, w)
        b = Conv(image, body__weight)
        c = Conv(a, body__weight)
        sum = Add(b, c)
        flat = Flatten(sum)
        turned = Transpose <perm=[1,0]> (head__weight)
        d = MatMul(flat, turned)
        e = MatMul(d, plain)
        out = Identity(e)
    """
    constants = {"s": np.float32(0.03), "t": np.float32(0.1), "z": np.uint8(128), "wz": np.int8(0)}
    proto = model(
        IMAGE,
        "float[2,2] out",
        nodes,
        stem__conv__weight=image(3, 3, 3, 3),
        body__weight=image(4, 3, 3, 3),
        head__weight=image(5, 64),
        plain=image(5, 2),
        **constants,
    )
    for tensor in proto.graph.initializer:
        tensor.name = tensor.name.replace("__", ".")
    for node in proto.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
    after, x = rewritten(proto), image()
    names = {node.op_type + str(position): node.name for position, node in enumerate(after.graph.node)}
    found = [name for kind, name in names.items() if kind.startswith(("Conv", "Add", "MatMul"))]
    # The second convolution with one weight keeps the name it had, and so does a product with no module's weight.
    assert found == ["stem.conv", "body", "node_6", "add behind body", "head", "node_11"]
    assert np.array_equal(run(after, x), run(proto, x))


def test_a_product_of_activations_is_not_named_after_an_embedding() -> None:
    proto = model(
        "int64[2,5] ids",
        "float[2,5,5] out",
        "x = Gather(table, ids)  turned = Transpose <perm=[0,2,1]> (x)  y = MatMul(x, turned)  out = Identity(y)",
        table=image(9, 4),
    )
    proto.graph.initializer[0].name = "embedding.weight"
    proto.graph.node[0].input[0] = "embedding.weight"
    assert [node.name for node in rewritten(proto).graph.node] == ["embedding", "node_1", "node_2", "node_3"]


def test_names_of_the_models_outputs_are_kept() -> None:
    proto = model(IMAGE, "float[2,4,4,4] logits", "logits = Conv(image, weight)", weight=image(4, 3, 3, 3))
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = "head.weight"
    after = rewritten(proto)
    assert [node.name for node in after.graph.node] == ["head"]
    assert [value.name for value in after.graph.output] == ["logits"]


# The whole


def test_what_leads_to_no_output_is_removed() -> None:
    proto = model(
        IMAGE,
        "float[2,3,6,6] out",
        "out = Relu(image)  dead = Add(image, unused)  more = Exp(dead)",
        unused=image(),
        other=image(),
    )
    after = rewritten(proto)
    assert operators(after) == ["Relu"]
    assert len(after.graph.initializer) == 0


@pytest.mark.parametrize("build", [lambda: conv(bias=True), padding, float_layer])
def test_a_second_rewrite_changes_nothing(build: object) -> None:
    once = rewritten(build())
    if build is not float_layer:
        assert rewritten(once) == once
    else:
        assert Counter(operators(rewritten(once)))["Clip"] == 1
