"""Which layers get quantizers that need no calibration, and GPT-2's transposed layers as linear ones."""

import pytest
import torch
from torch import Tensor, nn

from compress.quant.graph import capture
from compress.quant.linear_layers import place_linear, products_as_linear
from compress.quant.ptq import insert_quantizers, quantizers_in, rounds_activations
from compress.quant.scheme import Scheme


class Mixed(nn.Module):
    """Words (batch, 6) and an image (batch, 3, 6, 8): all kinds of layers with weights, one weight computed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.conv = nn.Conv2d(3, 6, (1, 8))
        self.up = nn.ConvTranspose1d(6, 6, 1)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, words: Tensor, image: Tensor) -> Tensor:
        x = self.table(words) + self.up(self.conv(image).mean(2)).mean(2)[:, :, None]
        return self.first(x) + self.second(x) + self.normed(x)


def mixed() -> torch.fx.GraphModule:
    return capture(Mixed(), (torch.zeros(2, 6, dtype=torch.long), torch.randn(2, 3, 6, 8)))


CONVOLUTIONS = {
    "dynamic": "ONNX Runtime's ConvInteger is slower than a convolution in float; the pass int8 takes it",
    "float": "weight_only takes linear layers and embeddings; the pass int8 takes it",
}


@pytest.mark.parametrize("activations", ["dynamic", "float"])
def test_linear_layers_and_embeddings_with_stored_weights(activations: str) -> None:
    graph_module = mixed()
    placement = insert_quantizers(graph_module, Scheme(("second",), activations=activations))
    assert placement.left_in_float == {
        "conv": CONVOLUTIONS[activations],
        "up": CONVOLUTIONS[activations],
        "second": "left in float by option",
        "normed": "its weight is computed, not stored",
    }
    weights = {path.removeprefix("quantizers.") for path in quantizers_in(graph_module) if path.endswith("_weight")}
    assert weights == {"table_weight", "first_weight"}
    assert len(quantizers_in(graph_module)) == (3 if activations == "dynamic" else 2)
    assert rounds_activations(graph_module) == (activations == "dynamic")


def test_only_linear_layers_read_rounded_activations() -> None:
    placement = place_linear(mixed(), Scheme(("second",), activations="dynamic"))
    (operand,) = placement.source
    assert {user.target for user in operand.users} == {torch.ops.aten.linear.default}
    assert [reader.name for reader in placement.readers[operand]] == ["linear"]


class Conv1D(nn.Module):
    """GPT-2's way to write a linear layer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


def test_a_transposed_layer_becomes_a_linear_one() -> None:
    model, x = nn.Sequential(Conv1D(6, 4)), torch.randn(2, 3, 6)
    graph_module = capture(model, (x,))
    products_as_linear(graph_module)
    assert torch.equal(graph_module.get_parameter("0.weight"), model[0].weight.t())
    assert torch.allclose(graph_module(x), model(x), rtol=1e-5, atol=1e-6)
    placement = insert_quantizers(graph_module, Scheme(activations="float", block_size=2))
    assert placement.layers == ["0"]
    assert graph_module.get_submodule("quantizers._0_weight").scale.shape == (4, 3)


class Shared(Conv1D):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.weight.sum()


def test_a_transposed_weight_that_is_read_elsewhere_stays() -> None:
    model, x = Shared(6, 4), torch.randn(2, 6)
    graph_module = capture(model, (x,))
    products_as_linear(graph_module)
    assert graph_module.get_parameter("weight").shape == (6, 4)
    assert torch.equal(graph_module(x), model(x))


class Projected(nn.Module):
    """Products as CLIP writes its projections, and one of two parameters, which no layer reads."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.other = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight) @ (self.other @ self.other)


@pytest.mark.parametrize(
    ("rows", "shape", "linear"), [((2, 3), (6, 5), 1), ((2,), (6, 5), 1), ((4, 3), (4, 6, 5), 0), ((2,), (6,), 0)]
)
def test_a_product_by_a_stored_matrix_becomes_a_linear_layer(rows: tuple[int, ...], shape: tuple[int, ...], linear: int) -> None:
    model, x = Projected(shape).eval(), torch.randn(*rows, 6)
    if len(shape) == 1:
        model.other = nn.Parameter(torch.randn(2, 2))
    graph_module = capture(model, (x,))
    products_as_linear(graph_module)
    assert sum(node.target is torch.ops.aten.linear.default for node in graph_module.graph.nodes) == linear
    assert graph_module.get_parameter("weight").shape == (torch.Size([5, 6]) if linear else model.weight.shape)
    assert torch.allclose(graph_module(x), model(x), rtol=1e-4, atol=1e-5)
