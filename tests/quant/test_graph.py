"""Capturing a network, and folding its batch norms, against the network itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import UserError
from compress.measure import count_parameters
from compress.quant.graph import capture, fold_batch_norm, layer_of


def with_statistics(norm: nn.Module) -> nn.Module:
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.2, 2)
    if norm.affine:
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return norm


def net(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*(with_statistics(layer) if hasattr(layer, "running_mean") else layer for layer in layers)).eval()


def folded(model: nn.Module, x: Tensor) -> tuple[nn.Module, list[str]]:
    graph_module = capture(model, (x,))
    names = fold_batch_norm(graph_module)
    return graph_module, names


def operators(graph_module: nn.Module) -> list[str]:
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)),
        (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)),
        (nn.Conv2d(3, 6, 3, padding="same"), nn.BatchNorm2d(6)),
        (nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, affine=False)),
        (nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.BatchNorm2d(3, eps=0.1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)),
    ],
    ids=["no bias", "bias", "padding by name", "grouped, norm without scale", "depthwise, then pointwise"],
)
def test_the_folded_net_computes_the_same(layers: tuple[nn.Module, ...]) -> None:
    model, x = net(*layers), torch.randn(2, 3, 7, 7)
    before = model(x)
    graph_module, names = folded(model, x)
    assert names == [name for name, layer in model.named_children() if isinstance(layer, nn.Conv2d)]
    assert not any("batch_norm" in operator for operator in operators(graph_module))
    assert torch.allclose(graph_module(x), before, atol=1e-5)
    assert torch.equal(model(x), before), "the model that was captured changed"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv1d(4, 5, 3, bias=False), (2, 4, 9)), (nn.Linear(4, 5), (2, 4)), (nn.Linear(4, 5, bias=False), (2, 4))],
)
def test_one_dimension_folds_too(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model, x = net(layer, nn.BatchNorm1d(5)), torch.randn(shape)
    graph_module, names = folded(model, x)
    assert not any("batch_norm" in operator for operator in operators(graph_module))
    assert names == ["0"]
    assert torch.allclose(graph_module(x), model(x), atol=1e-5)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)),
        (nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3)),
        (nn.Flatten(2), nn.Linear(49, 6), nn.BatchNorm1d(3)),
        (nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6)),
    ],
    ids=["behind a ReLU", "in front", "behind a linear layer over a sequence", "behind a transposed convolution"],
)
def test_a_norm_that_does_not_follow_a_convolution_stays(layers: tuple[nn.Module, ...]) -> None:
    model, x = net(*layers), torch.randn(2, 3, 7, 7)
    graph_module, names = folded(model, x)
    assert names == []
    assert sum("batch_norm" in operator for operator in operators(graph_module)) == 1
    assert torch.equal(graph_module(x), model(x))


class Forked(nn.Module):
    """The convolution's output goes to the norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = with_statistics(nn.BatchNorm2d(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x


class Shared(nn.Module):
    """One convolution, called twice, each time with another norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.first, self.second = (with_statistics(nn.BatchNorm2d(3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x))))


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, bias=False), nn.Conv2d(3, 3, 3, bias=False)
        self.conv2.weight = self.conv1.weight
        self.first, self.second = (with_statistics(nn.BatchNorm2d(3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv2(self.first(self.conv1(x))))


@pytest.mark.parametrize("kind", [Forked, Shared, Tied])
def test_a_weight_that_something_else_needs_stays(kind: type[nn.Module]) -> None:
    model, x = kind().eval(), torch.randn(2, 3, 9, 9)
    graph_module, names = folded(model, x)
    assert names == []
    assert torch.equal(graph_module(x), model(x))


class RawWeights(nn.Module):
    """Weights that belong to no convolution module, and a parameter whose name a folded bias might take."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(4, 4, 3, 3)) for _ in range(2))
        self.first_bias = nn.Parameter(torch.randn(4))
        self.shared = nn.Parameter(torch.randn(4))
        self.norm1, self.norm2 = (with_statistics(nn.BatchNorm2d(4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(F.conv2d(x, self.first))
        x = self.norm2(F.conv2d(x, self.second, self.shared))
        return x * self.shared.view(-1, 1, 1) + self.first_bias.view(-1, 1, 1)


def test_no_folded_bias_takes_the_place_of_another_parameter() -> None:
    model, x = RawWeights().eval(), torch.randn(2, 4, 9, 9)
    graph_module, names = folded(model, x)
    assert len(names) == 2
    assert set(graph_module.state_dict()) == {
        "first",
        "first_bias",
        "first_bias_folded",
        "second",
        "second_bias",
        "shared",
    }
    assert torch.allclose(graph_module(x), model(x), rtol=1e-4, atol=1e-3)


def test_names_are_kept_and_nothing_unused_stays(residual_net: nn.Module, images: Tensor) -> None:
    graph_module, names = folded(residual_net, images)
    assert names == ["stem", "conv1", "conv2", "shortcut.0"]
    layers = [*names, "head"]
    assert set(graph_module.state_dict()) == {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}
    weights = 3 * 16 * 9 + 16 * 32 * 9 + 32 * 32 * 9 + 16 * 32 + 32 * 5
    biases = 16 + 32 + 32 + 32 + 5
    assert count_parameters(graph_module) == weights + biases
    assert torch.allclose(graph_module(images), residual_net(images), atol=1e-5)


def test_every_node_knows_its_layer(residual_net: nn.Module, images: Tensor) -> None:
    graph_module = capture(residual_net, (images,))
    found = {str(node.target).split(".")[1]: layer_of(node) for node in graph_module.graph.nodes if node.op == "call_function"}
    assert found["conv2d"] == "shortcut.0"
    assert found["max_pool2d"] == "pool"
    assert found["linear"] == "head"
    assert found["add"] == "add"  # written in the outermost forward, which has no name


def test_the_captured_graph_switches_modes_like_any_module(residual_net: nn.Module, images: Tensor) -> None:
    graph_module = capture(residual_net.train(), (images,))
    assert not residual_net.training
    assert not graph_module.training
    assert graph_module.train().training
    assert not graph_module.eval().training


class Refuses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("the width is odd\nand more")


class Asks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_captured_is_named() -> None:
    with pytest.raises(UserError) as error:
        capture(Refuses(), (torch.zeros(1, 2),))
    assert str(error.value) == "the forward of Refuses cannot be captured by torch.export: the width is odd"
    with pytest.raises(UserError, match=r"^the forward of Asks cannot be captured by torch.export: .+$"):
        capture(Asks(), (torch.zeros(1, 2),))
