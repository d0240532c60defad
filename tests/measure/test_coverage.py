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
from compress.measure.coverage import NO_KERNEL, Coverage, layer_name
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


def test_resnet18_with_one_layer_in_float(tmp_path: Path) -> None:
    found = coverage(resnet18().eval(), torch.randn(2, 3, 32, 32), tmp_path / "m.onnx", "layer3.0.conv2")
    assert found.counts == {"conv": (19, 20), "linear": (1, 1), "add": (8, 8), "embedding": (0, 0)}
    assert found.left_in_float == (("layer3.0.conv2", BY_OPTION),)
    assert str(found) == "19/20 conv, 1/1 linear, 8/8 add in int8"


@pytest.mark.parametrize(
    ("exclude", "counts", "left_in_float"),
    [
        # Two in a row, of which the first is merged with its ReLU; the addition behind them stays in integers.
        (
            "conv?",
            {"conv": (2, 4), "linear": (1, 1), "add": (1, 1), "embedding": (0, 0)},
            {"conv1": BY_OPTION, "conv2": BY_OPTION},
        ),
        (
            "head",
            {"conv": (4, 4), "linear": (0, 1), "add": (0, 1), "embedding": (0, 0)},
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
    assert found.counts == counts
    assert dict(found.left_in_float) == left_in_float


def test_a_float_model_has_nothing_in_integers(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    export_onnx(residual_net, (images,), tmp_path / "m.onnx", SIGNATURE)
    found = integer_coverage(tmp_path / "m.onnx")
    # The runtime merged the addition into a convolution, so that none is left to count.
    assert found.counts == {"conv": (0, 4), "linear": (0, 1), "add": (0, 0), "embedding": (0, 0)}
    assert sorted(found.left_in_float) == [(name, NO_KERNEL) for name in ("conv1", "conv2", "head", "shortcut.0", "stem")]
    assert str(found) == "0/4 conv, 0/1 linear in int8"


def test_adding_a_constant_is_no_residual_connection(tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["": 20]> net (float[2,3] x) => (float[2,3] y) { z = Add(x, c)  y = Add(z, x) }'
    proto = parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "c"))
    for node in proto.graph.node:
        node.name = f"to {node.output[0]}"
    onnx.save(proto, tmp_path / "m.onnx")
    assert integer_coverage(tmp_path / "m.onnx") == Coverage(
        {"conv": (0, 0), "linear": (0, 0), "add": (0, 1), "embedding": (0, 0)}, (("to y", "it adds what is float in this graph"),)
    )


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
