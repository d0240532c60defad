"""Ranges found at run time: the operator against numpy, and the file that ONNX Runtime executes against integers by hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.export import Signature, export_onnx
from compress.measure import open_onnx
from compress.measure.coverage import optimized_graph
from compress.quant.dynamic import dynamic_fake_quantize
from compress.quant.ptq import prepare
from compress.quant.scheme import Scheme

SIGNATURE = Signature(("input",), ("logits",), ({0: "batch"},))


def codes_by_numpy(x: np.ndarray) -> tuple[np.ndarray, np.float32, int]:
    """uint8 codes, scale and zero point, as the ONNX standard's text has them."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255))
    zero_point = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero_point, 0, 255).astype(np.int64), scale, zero_point


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_the_operator_is_the_formula_of_the_standard(shift: float) -> None:
    x = (torch.rand(4, 5, 6) - 0.5) * 4 + shift  # around zero, above it, below it
    codes, scale, zero_point = codes_by_numpy(x.numpy())
    assert np.allclose(dynamic_fake_quantize(x).numpy(), (codes - zero_point) * scale, rtol=0, atol=1e-6)
    assert len(np.unique(codes)) > 20
    assert zero_point == {0.0: zero_point, 3.0: 0, -3.0: 255}[shift]


def test_zeros_stay_zeros() -> None:
    assert torch.equal(dynamic_fake_quantize(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_the_range_is_that_of_the_whole_batch() -> None:
    small, large = torch.tensor([[0.1, 0.3]]), torch.tensor([[100.0, -100.0]])
    assert not torch.equal(dynamic_fake_quantize(small), dynamic_fake_quantize(torch.cat([small, large]))[:1])


class Attention(nn.Module):
    """Tokens (batch, 6, 8) to (batch, 6, 4): three linear layers read the same tensor, one of them without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x))


@pytest.mark.parametrize("shape", [(3, 7), (3, 5, 7)], ids=["gemm", "matmul"])
def test_one_layer_in_the_runtime_is_integers_by_hand(shape: tuple[int, ...], tmp_path: Path) -> None:
    layer, x = nn.Sequential(nn.Linear(7, 4)), torch.randn(shape)
    graph_module, _ = prepare(layer, (x,), Scheme(activations="dynamic"), dynamic_shapes=SIGNATURE.dynamic_shapes)
    export_onnx(graph_module, (x,), tmp_path / "m.onnx", SIGNATURE)
    weight, bias = layer[0].weight.detach().numpy(), layer[0].bias.detach().numpy()
    steps = np.abs(weight).max(1) / 127
    codes, scale, zero_point = codes_by_numpy(x.numpy())
    sums = (codes - zero_point) @ np.rint(weight / steps[:, None]).astype(np.int64).T
    found = open_onnx(tmp_path / "m.onnx").predict(x)
    assert np.allclose(found, sums * (scale * steps) + bias, rtol=0, atol=1e-6)
    assert np.abs(found - layer(x).detach().numpy()).max() > 1e-4  # it is rounded at all
    executed = Counter(node.op_type for node in optimized_graph(tmp_path / "m.onnx").graph.node)
    assert executed == {"DynamicQuantizeMatMul": 1}


def test_layers_that_read_the_same_tensor_share_its_codes(tmp_path: Path) -> None:
    model, x = Attention().eval(), torch.randn(2, 6, 8)
    graph_module, placement = prepare(model, (x,), Scheme(activations="dynamic"), dynamic_shapes=SIGNATURE.dynamic_shapes)
    assert [len(readers) for readers in placement.readers.values()] == [3, 1]
    export_onnx(graph_module, (x,), tmp_path / "m.onnx", SIGNATURE)
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    assert Counter(node.op_type for node in nodes if "Integer" in node.op_type or "Dynamic" in node.op_type) == {
        "MatMulInteger": 4,
        "DynamicQuantizeLinear": 2,
    }
    assert {node.name for node in nodes if node.op_type == "MatMulInteger"} == {"q", "k", "v", "out"}
    executed = Counter(node.op_type for node in optimized_graph(tmp_path / "m.onnx").graph.node)
    assert (executed["MatMulIntegerToFloat"], executed["DynamicQuantizeMatMul"]) == (3, 1)
    with torch.no_grad():
        expected = graph_module(x).numpy()
    assert np.allclose(open_onnx(tmp_path / "m.onnx").predict(x), expected, rtol=0, atol=1e-5)
