"""Four-bit codes in the file: half the bytes, the same integer kernels, the same numbers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper, parser
from torch import nn

from compress.export import Signature, export_onnx
from compress.measure import integer_coverage, open_onnx
from compress.onnx_rewrites.graph import Graph
from compress.onnx_rewrites.int4 import pack_int4
from compress.quant.ptq import calibrate, prepare
from compress.quant.scheme import Scheme


def written(path: Path, bits: int) -> tuple[np.ndarray, np.ndarray, onnx.ModelProto]:
    """What the file answers, what torch answers, and the file."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 33, 3), nn.ReLU(), nn.Conv2d(33, 64, 3), nn.Flatten(), nn.Linear(1024, 5)).eval()
    x = torch.randn(2, 3, 8, 8)
    graph_module, _ = prepare(model, (x,), Scheme(weight_bits=bits))
    calibrate(graph_module, lambda: [(x,)], "minmax")
    export_onnx(graph_module, (x,), path, Signature(("x",), ("logits",), ({},)))
    return open_onnx(path).predict(x), graph_module(x).detach().numpy(), onnx.load(path)


def kinds(proto: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) > 1}


def test_codes_of_four_bits_are_two_to_a_byte(tmp_path: Path) -> None:
    found, expected, proto = written(tmp_path / "four.onnx", 4)
    wide = written(tmp_path / "five.onnx", 5)[2]
    assert set(kinds(proto).values()) == {TensorProto.INT4}
    assert set(kinds(wide).values()) == {TensorProto.INT8}
    weights = 3 * 33 * 9 + 33 * 64 * 9 + 1024 * 5
    saved = (tmp_path / "five.onnx").stat().st_size - (tmp_path / "four.onnx").stat().st_size
    assert saved == pytest.approx(weights / 2, abs=600)
    assert integer_coverage(tmp_path / "four.onnx").counts == {
        **dict.fromkeys(("product", "add", "embedding"), (0, 0)),
        "conv": (2, 2),
        "linear": (1, 1),
    }
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
    assert {imported.version for imported in proto.opset_import if not imported.domain} == {21}
    assert {imported.version for imported in wide.opset_import if not imported.domain} == {20}


@pytest.mark.parametrize(("operator", "packed"), [("Identity(y)", True), ("GroupNormalization<num_groups=1>(y, s, s)", False)])
def test_a_network_with_an_operator_that_changed_its_meaning_stays(operator: str, packed: bool) -> None:
    text = f"""<ir_version: 10, opset_import: ["": 20]> net (float[1,32,4] x) => (float[1,32,4] z)
        {{ w = DequantizeLinear(codes, scale, zero)  y = MatMul(w, x)  z = {operator} }}"""
    proto = parser.parse_model(text)
    codes = np.arange(1024).reshape(32, 32).astype(np.int8) % 15 - 7
    arrays = {"codes": codes, "scale": np.float32(0.1), "zero": np.int8(0), "s": np.ones(1, np.float32)}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items())
    graph = Graph(proto)
    pack_int4(graph, proto)
    assert ("Cast" in [node.op_type for node in proto.graph.node]) == packed
    assert proto.opset_import[0].version == (21 if packed else 20)
