"""Which tensors get a quantizer, and which of them share one: a table, written by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.cifar_resnet import CifarResNet
from compress.quant.graph import layer_of
from compress.quant.placement import Placement, place
from compress.quant.ptq import folded
from compress.quant.scheme import Scheme

BY_OPTION = "left in float by option"
NO_READER = "nothing that computes in integers reads it"


def placed(model: nn.Module, *inputs: Tensor, exclude: tuple[str, ...] = ()) -> Placement:
    graph_module = folded(model, inputs)
    return place(graph_module, Scheme(exclude).excludes)


def sharing(placement: Placement) -> list[str]:
    """The quantized tensors by their nodes' names, those of one quantizer on one line, its owner first."""
    lines: dict[str, list[str]] = {}
    for node, source in placement.source.items():
        lines.setdefault(str(source), []).append(str(node))
    return [" ".join(sorted(names, key=lambda name: name != source)) for source, names in lines.items()]


def weights(placement: Placement) -> list[str]:
    return [layer_of(node) for node in placement.weights]


def test_a_residual_net(residual_net: nn.Module, images: Tensor) -> None:
    placement = placed(residual_net, images)
    assert sharing(placement) == [
        "x",
        "relu",  # not conv2d: the ReLU is absorbed
        "relu_1",
        "conv2d_2",  # the two operands of the addition
        "conv2d_3",
        "relu_2 max_pool2d",  # behind the addition; a maximum is a value that went in
        "adaptive_avg_pool2d flatten",
        # not linear: the logits stay float
    ]
    assert weights(placement) == placement.layers == ["stem", "conv1", "conv2", "shortcut.0", "head"]
    assert placement.left_in_float == {}


def test_the_shortcut_without_parameters_keeps_its_scale(images: Tensor) -> None:
    placement = placed(CifarResNet(8, 10).eval(), images)
    assert sharing(placement) == [
        "x",
        "relu",
        "relu_1",
        "conv2d_2",
        "relu_2 slice_1 slice_2 pad",
        "relu_3",
        "conv2d_4",
        "relu_4 slice_3 slice_4 pad_1",
        "relu_5",
        "conv2d_6",
        "relu_6",
        "adaptive_avg_pool2d flatten",
    ]
    assert len(placement.weights) == len(placement.layers) == 8


def test_excluded_layers_stay_float_with_their_reason(residual_net: nn.Module, images: Tensor) -> None:
    placement = placed(residual_net, images, exclude=("conv*", "head"))
    assert placement.left_in_float == {
        "conv1": BY_OPTION,
        "conv2": BY_OPTION,
        "head": BY_OPTION,
        "add behind conv2": NO_READER,
    }
    assert weights(placement) == ["stem", "shortcut.0"]
    assert placement.layers == ["stem", "conv1", "conv2", "shortcut.0", "head"]
    assert sharing(placement) == ["x", "relu", "conv2d_3"]


def test_everything_excluded_leaves_nothing(residual_net: nn.Module, images: Tensor) -> None:
    placement = placed(residual_net, images, exclude=("*",))
    assert (placement.source, placement.weights) == ({}, [])
    assert set(placement.left_in_float) == {*placement.layers, "add behind conv2"}


class Net(nn.Module):
    """Four layers for a forward of our choice."""

    def __init__(self, forward: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.b = nn.Conv2d(3, 3, 3, padding=1)
        self.c = nn.Linear(3, 3)
        self.d = nn.Linear(3, 3)
        self.do = forward

    def forward(self, x: Tensor) -> Any:
        return self.do(self, x)


# forward -> the quantized tensors, and what is left in float.
TABLE: dict[str, tuple[Callable[[Net, Tensor], Any], list[str], dict[str, str]]] = {
    "relu in between": (lambda n, x: n.b(F.relu(n.a(x))), ["x", "relu", "conv2d_1"], {}),
    "relu6": (lambda n, x: n.b(F.relu6(n.a(x))), ["x", "relu6", "conv2d_1"], {}),
    "hardtanh": (lambda n, x: n.b(F.hardtanh(n.a(x), 0.0, 6.0)), ["x", "hardtanh", "conv2d_1"], {}),
    "clamp": (lambda n, x: n.b(n.a(x).clamp(0.0, 3.0)), ["x", "clamp", "conv2d_1"], {}),
    "relu at the end": (lambda n, x: F.relu(n.a(x)), ["x", "relu"], {}),
    # The convolution's own output is read too, so the clip cannot take its place.
    "relu beside": (
        lambda n, x: (lambda y: (n.b(F.relu(y)), y.sigmoid()))(n.a(x)),
        ["x", "conv2d", "relu", "conv2d_1"],
        {},
    ),
    "sigmoid in between": (lambda n, x: n.b(n.a(x).sigmoid()), ["x", "conv2d", "sigmoid", "conv2d_1"], {}),
    "max pool": (lambda n, x: n.b(F.max_pool2d(n.a(x), 2)), ["x", "conv2d max_pool2d", "conv2d_1"], {}),
    "average pool": (lambda n, x: n.b(F.avg_pool2d(n.a(x), 2)), ["x", "conv2d", "avg_pool2d", "conv2d_1"], {}),
    "mean of all pixels": (lambda n, x: n.c(n.a(x).mean((2, 3))), ["x", "conv2d", "mean"], {}),
    "zero padding": (lambda n, x: n.b(F.pad(n.a(x), (1, 1))), ["x", "conv2d pad", "conv2d_1"], {}),
    "padding with ones": (lambda n, x: n.b(F.pad(n.a(x), (1, 1), value=1.0)), ["x", "conv2d", "pad", "conv2d_1"], {}),
    "reflection": (lambda n, x: n.b(F.pad(n.a(x), (1, 1, 1, 1), "reflect")), ["x", "conv2d", "pad", "conv2d_1"], {}),
    "dropout": (lambda n, x: n.b(F.dropout(n.a(x), 0.5, n.training)), ["x", "conv2d dropout", "conv2d_1"], {}),
    "slice, transpose": (
        lambda n, x: n.b(n.a(x)[:, :, ::2].transpose(2, 3)),
        ["x", "conv2d slice_1 transpose", "conv2d_1"],
        {},
    ),
    "linear to linear": (lambda n, x: n.d(n.c(x[:, :, 0, 0])), ["x select select_1", "linear"], {}),
    "linear, relu, linear": (lambda n, x: n.d(F.relu(n.c(x[:, :, 0, 0]))), ["x select select_1", "relu"], {}),
    "linear at the end": (lambda n, x: n.c(x[:, :, 0, 0]), ["x select select_1"], {}),
    "add that a convolution reads": (lambda n, x: n.b(n.a(x) + x), ["x", "conv2d", "add", "conv2d_1"], {}),
    "add to itself": (lambda n, x: (lambda y: n.b(y + y))(n.a(x)), ["x", "conv2d", "add", "conv2d_1"], {}),
    "add at the end": (lambda n, x: n.a(x) + n.b(x), ["x", "conv2d", "conv2d_1"], {"add behind a": NO_READER}),
    "adds at the end, one behind the other": (
        lambda n, x: (n.a(x) + x) + n.b(x),
        ["x", "conv2d", "conv2d_1"],
        {"add behind a": NO_READER, "add behind b": NO_READER},
    ),
    "a sum of what no layer gave": (lambda n, x: n.b(x) * (x + x.exp()), ["x", "conv2d"], {"add": NO_READER}),
    "silu": (lambda n, x: n.b(F.silu(n.a(x))), ["x", "conv2d", "sigmoid_default", "mul_tensor", "conv2d_1"], {}),
    "a gate": (lambda n, x: n.b(n.a(x) * x), ["x", "conv2d", "mul", "conv2d_1"], {}),
    "a product at the end": (lambda n, x: n.a(x) * x, ["x", "conv2d"], {}),
    "leaky relu": (lambda n, x: n.b(F.leaky_relu(n.a(x))), ["x", "conv2d", "leaky_relu", "conv2d_1"], {}),
    "concatenation": (lambda n, x: n.b(torch.cat([n.a(x), x], 2)), ["x", "conv2d", "cat", "conv2d_1"], {}),
    "halves": (
        lambda n, x: n.b(torch.cat(n.a(x).chunk(2, 2), 3)),
        ["x", "conv2d getitem getitem_1", "cat", "conv2d_1"],
        {},
    ),
    "upsampling": (lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=2.0)), ["x", "conv2d upsample_nearest2d", "conv2d_1"], {}),
    # These are no residual connections: a quantizer of their own would not make them integer additions.
    "add of a number": (lambda n, x: n.b(n.a(x) + 1), ["x", "conv2d", "add", "conv2d_1"], {}),
    "add with a factor": (lambda n, x: n.b(torch.add(n.a(x), x.sigmoid(), alpha=2)), ["x", "conv2d", "add", "conv2d_1"], {}),
    "computed weight": (
        lambda n, x: F.conv2d(n.a(x), n.b.weight * 2),
        ["x", "conv2d"],
        {"conv2d_1": "its weight is computed, not stored"},
    ),
    "two outputs": (lambda n, x: (lambda y: (y, n.d(y)))(n.c(x[:, :, 0, 0])), ["x select select_1", "linear"], {}),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_table(case: str) -> None:
    forward, quantized, left_in_float = TABLE[case]
    placement = placed(Net(forward).eval(), torch.randn(2, 3, 8, 8))
    assert sharing(placement) == quantized
    assert placement.left_in_float == left_in_float


def test_a_float_operator_reads_the_float_beside_a_layer_that_reads_integers() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = F.gelu(net.c(x[:, :, 0, 0]))
        return net.d(y) + y.exp()

    placement = placed(Net(forward).eval(), torch.randn(2, 3, 8, 8))
    readers = {str(node): [str(reader) for reader in found] for node, found in placement.readers.items()}
    assert readers == {"x": ["select"], "select": ["select_1"], "select_1": ["linear"], "gelu": ["linear_1"]}


def test_all_read_what_an_integer_kernel_gives_out() -> None:
    placement = placed(Net(lambda n, x: (lambda y: n.b(y) + y.exp())(n.a(x))).eval(), torch.randn(2, 3, 8, 8))
    readers = {str(node): [str(reader) for reader in found] for node, found in placement.readers.items()}
    assert readers == {"x": ["conv2d"], "conv2d": ["exp", "conv2d_1"], "conv2d_1": ["add"]}


def test_a_transposed_convolution_stays_float_with_its_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 2, 1)).eval()
    placement = placed(model, torch.randn(2, 3, 8, 8))
    assert placement.left_in_float == {"1": "ONNX Runtime has no integer kernel for conv_transpose2d"}
    assert weights(placement) == ["0", "2"]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor, shift: Tensor) -> Tensor:
        return self.head(self.hidden(self.embedding(ids + shift))[:, 0])


def test_integers_are_never_quantized() -> None:
    placement = placed(Tokens().eval(), torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long))
    assert sharing(placement) == ["embedding", "linear select"]
    assert [layer_of(node) for node in placement.tables] == ["embedding"]
    assert placement.layers == ["embedding", "hidden", "head"]
    assert placement.left_in_float == {}


def test_an_excluded_embedding_stays_float() -> None:
    placement = placed(Tokens().eval(), *(torch.ones(2, 5, dtype=torch.long),) * 2, exclude=("emb*",))
    assert placement.tables == []
    assert placement.left_in_float == {"embedding": BY_OPTION}
