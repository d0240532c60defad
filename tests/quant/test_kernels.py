"""Whole small networks in the runtime: which operators it really executes, and that it answers as torch does."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from compress.export import Signature, export_onnx
from compress.measure import integer_coverage, open_onnx
from compress.measure.coverage import optimized_graph
from compress.quant.ptq import calibrate, prepare

# Beside the operators named in a case: what stands at a network's ends, and changes of the memory layout there.
ENDS = {"QuantizeLinear": 1, "DequantizeLinear": 1, "Transpose": 2}


class Net(nn.Module):
    def __init__(self, forward: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 4, 1), nn.Conv2d(16, 4, 1)
        self.do = forward

    def forward(self, x: Tensor) -> Any:
        return self.do(self, x)


def quantized(model: nn.Module, path: Path, *inputs: Tensor) -> fx.GraphModule:
    axes = tuple({0: "batch"} for _ in inputs)
    signature = Signature(tuple(f"x{number}" for number in range(len(inputs))), ("logits",), axes)
    graph_module, _ = prepare(model.eval(), inputs, dynamic_shapes=signature.dynamic_shapes)
    calibrate(graph_module, lambda: [inputs], "minmax")
    export_onnx(graph_module, inputs, path, signature)
    return graph_module


def executed(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in optimized_graph(path).graph.node)


def gate(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.a(x))
    return net.c(y * torch.sigmoid(net.b(y.mean((2, 3), keepdim=True))))


CASES: dict[str, tuple[Callable[[Net, Tensor], Any], dict[str, int]]] = {
    "relu": (lambda n, x: n.c(F.relu(n.a(x))), {"QLinearConv": 2}),
    "silu": (lambda n, x: n.c(F.silu(n.a(x))), {"QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1}),
    "leaky relu": (lambda n, x: n.c(F.leaky_relu(n.a(x))), {"QLinearConv": 2, "QLinearLeakyRelu": 1}),
    "squeeze and excite": (gate, {"QLinearConv": 3, "QLinearGlobalAveragePool": 1, "QLinearSigmoid": 1, "QLinearMul": 1}),
    "concatenation": (
        lambda n, x: (lambda y: n.d(torch.cat([y, F.relu(n.b(y))], 1)))(F.relu(n.a(x))),
        {"QLinearConv": 3, "QLinearConcat": 1},
    ),
    "halves that change places": (
        lambda n, x: n.c(torch.cat(F.relu(n.a(x)).chunk(2, 1)[::-1], 1)),
        {"QLinearConv": 2, "Split": 1, "QLinearConcat": 1},
    ),
    "upsampling": (lambda n, x: n.c(F.interpolate(F.relu(n.a(x)), scale_factor=2.0)), {"QLinearConv": 2, "Resize": 1}),
    "padding on two sides": (lambda n, x: n.b(F.pad(F.relu(n.a(x)), (0, 1, 0, 1))), {"QLinearConv": 2}),
    "residual": (lambda n, x: (lambda y: n.c(n.b(y) + y))(n.a(x)), {"QLinearConv": 3, "QLinearAdd": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_everything_between_the_ends_is_computed_in_integers(case: str, tmp_path: Path) -> None:
    forward, wanted = CASES[case]
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    graph_module = quantized(Net(forward), tmp_path / "net.onnx", x)
    found = executed(tmp_path / "net.onnx")
    assert {name: count for name, count in found.items() if name not in ENDS} == wanted
    assert all(found[name] <= count for name, count in ENDS.items()), found
    expected = graph_module(x).detach()
    step = expected.abs().max().item() / 100
    assert np.abs(open_onnx(tmp_path / "net.onnx").predict(x) - expected.numpy()).max() <= step


class Encoder(nn.Module):
    """A transformer's block on tokens, with a table, a masked attention, and a feed-forward net."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(50, 16), nn.LayerNorm(16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.table(ids)
        heads = [layer(x).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None, :].bool())
        x = self.norm(x + self.o(mixed.transpose(1, 2).flatten(2)))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


def tokens() -> tuple[Tensor, Tensor]:
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    return torch.randint(50, (2, 6)), mask


def test_a_transformer_keeps_its_table_and_its_linear_layers_in_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs, path = tokens(), tmp_path / "encoder.onnx"
    graph_module = quantized(Encoder(), path, *inputs)
    found = executed(path)
    assert found["QGemm"] == 7  # each with its bias
    assert found["Gather"] >= 2
    assert found["MatMul"] + found["FusedMatMul"] == 2  # of activations: faster in float
    # The sum, its norm and GELU read floats; no pair of conversions stands around them.
    assert found["DequantizeLinear"] == 0
    coverage = integer_coverage(path)
    assert [coverage.counts[kind] for kind in ("linear", "product", "embedding")] == [(7, 7), (0, 2), (1, 1)]
    left = dict(coverage.left_in_float)
    assert {"add behind o", "add behind down"} <= set(left)  # the names that the placement gives them
    products = [reason for name, reason in left.items() if not name.startswith("add")]
    assert products == ["a product of two activations, as in an attention"] * 2
    expected = graph_module(*inputs).detach().numpy()
    assert np.abs(open_onnx(path).predict(*inputs) - expected).max() <= 0.02 * np.abs(expected).max()


def test_a_table_is_a_quarter_in_the_file_and_its_rows_have_scales_of_their_own(tmp_path: Path) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(1000, 64), nn.Linear(64, 2)
            with torch.no_grad():
                self.table.weight[7] *= 1000

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids) if self.rows else self.head(self.table(ids)[:, 0])

    model, ids = Tokens(), torch.randint(1000, (2, 5))
    model.rows = True
    graph_module, _ = prepare(model.eval(), (ids,))
    path = tmp_path / "table.onnx"
    export_onnx(graph_module, (ids,), path, Signature(("ids",), ("rows",), ({},)))
    assert path.stat().st_size < 1.15 * 1000 * 64 + 1000 * 8
    weight = model.table.weight[ids].detach()
    steps = weight.abs().amax(-1, keepdim=True) / 127
    found = torch.from_numpy(open_onnx(path).predict(ids))
    assert ((found - weight).abs() <= 0.501 * steps).all()
    assert torch.equal(found, graph_module(ids).detach())


class TwoLinear(Net):
    def __init__(self, forward: Callable[["Net", Tensor], Any]) -> None:
        super().__init__(forward)
        self.c, self.d = nn.Linear(6, 8), nn.Linear(8, 8)


def residual(net: Net, x: Tensor) -> Tensor:
    y = net.c(x)
    return net.d(y) + y


FLOAT_READERS: dict[str, Callable[[Net, Tensor], Any]] = {
    "quantized and not": residual,
    "relu, then float": lambda n, x: n.d(F.relu(n.c(x)).exp()),
    "clip, then float": lambda n, x: F.layer_norm(n.d(n.c(x).clamp(-1, 1).exp()).relu(), (8,)),
}


@pytest.mark.parametrize("case", FLOAT_READERS)
def test_a_linear_layer_whose_floats_are_read_is_computed_in_integers(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    graph_module = quantized(TwoLinear(FLOAT_READERS[case]), tmp_path / "net.onnx", x)
    assert integer_coverage(tmp_path / "net.onnx").counts["linear"] == (2, 2)
    expected = graph_module(x).detach().numpy()
    assert np.abs(open_onnx(tmp_path / "net.onnx").predict(x) - expected).max() <= 0.01 * np.abs(expected).max()
