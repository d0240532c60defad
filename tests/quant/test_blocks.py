"""Weights of few bits with a scale per block: codes by brute force, and the files that ONNX Runtime executes."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.export import Signature, export_onnx
from compress.measure import integer_coverage, open_onnx
from compress.measure.coverage import optimized_graph
from compress.quant.blocks import BlockQuantizer
from compress.quant.ptq import prepare
from compress.quant.scheme import Scheme

SIGNATURE = Signature(("input",), ("logits",), ({0: "batch"},))


def one_block(values: list[float], bits: int, *, symmetric: bool) -> list[float]:
    """A block rounded by itself, one number after the other."""
    most = 2**bits - 1
    if symmetric:
        zero, step = 2 ** (bits - 1), max(abs(v) for v in values) / (2 ** (bits - 1) - 1)
    else:
        low, high = min([*values, 0.0]), max([*values, 0.0])
        step = (high - low) / most
        zero = min(max(round(-low / step), 0), most)
    return [(min(max(round(v / step) + zero, 0), most) - zero) * step for v in values]


def by_hand(weight: Tensor, bits: int, block_size: int, *, symmetric: bool) -> Tensor:
    rows = []
    for row in weight.tolist():
        blocks = [row[begin : begin + block_size] for begin in range(0, len(row), block_size)]
        rows.append([value for block in blocks for value in one_block(block, bits, symmetric=symmetric)])
    return torch.tensor(rows)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [16, 32, 70])
@pytest.mark.parametrize("bits", [4, 8])
def test_each_block_is_rounded_by_itself(bits: int, block_size: int, symmetric: bool) -> None:
    weight = torch.randn(6, 70)  # no multiple of 16 or 32
    weight[0] = weight[0].abs()  # of one sign
    weight[1, :32] *= 100
    quantizer = BlockQuantizer(6, 70, bits, block_size, symmetric=symmetric)
    quantizer.set_from(weight)
    assert quantizer.scale.shape == (6, math.ceil(70 / block_size))
    expected = by_hand(weight, bits, block_size, symmetric=symmetric)
    assert torch.allclose(quantizer(weight), expected, rtol=1e-5, atol=1e-7)


def test_without_a_block_size_a_row_is_one_block() -> None:
    weight = torch.randn(3, 10)
    quantizer = BlockQuantizer(3, 10, 4)
    quantizer.set_from(weight)
    assert torch.allclose(quantizer(weight), by_hand(weight, 4, 10, symmetric=True), rtol=1e-5, atol=1e-7)


def test_codes_stay_within_their_bits_where_zero_point_and_largest_value_both_round_up() -> None:
    weight = torch.tensor([[-7.5, 7.5]])  # 15 steps of 1: zero point 8, and 7.5 rounds to 8 more
    quantizer = BlockQuantizer(1, 2, 4, symmetric=False)
    quantizer.set_from(weight)
    assert (quantizer.scale.item(), quantizer.zero_point.item()) == (1.0, 8)
    assert quantizer(weight).tolist() == [[-8.0, 7.0]]


def test_a_block_of_zeros_stays_one() -> None:
    quantizer = BlockQuantizer(1, 4, 4, 2, symmetric=False)
    quantizer.set_from(torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
    assert quantizer(torch.tensor([[0.0, 0.0, 1.0, 2.0]]))[0, :2].tolist() == [0.0, 0.0]


class Tied(nn.Module):
    """Tokens (batch, 5) to scores of all 40 words, by the table that they were looked up in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(40, width)
        self.inner = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(torch.relu(self.inner(self.table(tokens))), self.table.weight)


class EveryReader(Tied):
    """As `Tied`, with a layer on vectors, a bias, and a weight whose numbers are read otherwise, too."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.head = nn.Linear(width, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.relu(self.inner(self.table(tokens)))
        scores = F.linear(hidden, self.table.weight).flatten(1)
        return torch.cat([scores, self.head(hidden.mean(1)) + self.head.weight.sum()], 1)


CASES = [(4, 0, 64, True), (4, 32, 64, True), (4, 16, 70, False), (4, 128, 33, False), (8, 0, 64, True), (8, 32, 70, False)]


@pytest.mark.parametrize(("bits", "block_size", "width", "symmetric"), CASES)
def test_the_file_is_the_float_network_with_rounded_weights(
    bits: int, block_size: int, width: int, symmetric: bool, tmp_path: Path
) -> None:
    model, x = EveryReader(width), torch.randint(40, (3, 5))
    scheme = Scheme(weight_bits=bits, activations="float", block_size=block_size or None, symmetric_weights=symmetric)
    graph_module, _ = prepare(model, (x,), scheme, dynamic_shapes=SIGNATURE.dynamic_shapes)
    path = tmp_path / "m.onnx"
    export_onnx(graph_module, (x,), path, SIGNATURE)
    with torch.no_grad():
        before = model(x)
        for weight in (model.table.weight, model.inner.weight, model.head.weight):
            weight.copy_(by_hand(weight, bits, block_size or width, symmetric=symmetric))
        expected = model(x)
        assert (before - expected).abs().max() > 1e-3
        assert torch.allclose(graph_module(x), expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(open_onnx(path).predict(x), expected.numpy(), rtol=1e-4, atol=1e-4)
    domains = {each.domain for each in onnx.load(path).opset_import}
    assert domains == ({"", "com.microsoft"} if bits == 4 else {""})


def file_of(model: nn.Module, x: Tensor, path: Path, bits: int, block_size: int) -> int:
    scheme = Scheme(weight_bits=bits, activations="float", block_size=block_size)
    graph_module, _ = prepare(model, (x,), scheme, dynamic_shapes=SIGNATURE.dynamic_shapes)
    export_onnx(graph_module, (x,), path, SIGNATURE)
    return path.stat().st_size


def test_sizes_of_files(tmp_path: Path) -> None:
    """A scale of 4 bytes for 128 weights of half a byte: 32 / (4 + 32 / 128) = 7.5 times smaller."""
    model, x = nn.Sequential(nn.Linear(512, 512, bias=False), nn.Linear(512, 512, bias=False)), torch.randn(2, 512)
    weights = 2 * 512 * 512
    assert file_of(model, x, tmp_path / "4.onnx", 4, 128) - weights * (1 / 2 + 4 / 128) < 3000
    assert file_of(model, x, tmp_path / "8.onnx", 8, 128) - weights * (1 + 4 / 128) < 15000


def test_a_table_that_is_a_matrix_too_is_stored_once(tmp_path: Path) -> None:
    model, x = Tied(256), torch.randint(40, (2, 5))
    size = file_of(model, x, tmp_path / "m.onnx", 4, 32)
    assert size - (256 + 40) * 256 * (1 / 2 + 4 / 32) < 3000


def test_four_bits_run_packed_and_in_float(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    file_of(Tied(64), torch.randint(40, (2, 5)), path, 4, 32)
    nodes = optimized_graph(path).graph.node
    products = [node for node in nodes if node.op_type == "MatMulNBits"]
    assert Counter(node.op_type for node in nodes) == {"GatherBlockQuantized": 1, "MatMulNBits": 2, "Relu": 1}
    assert [{a.name: a.i for a in node.attribute}["accuracy_level"] for node in products] == [1, 1]
    assert products[0].name == "inner"
    coverage = integer_coverage(path)
    assert coverage.counts["linear"] == (0, 2)
    assert dict(coverage.left_in_float)["inner"] == "its weights are stored as integers, and computed with in float"
