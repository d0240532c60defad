"""NaN and infinity, in weights, statistics and calibration data: one sentence each, which names the tensor."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import compress
from compress.errors import UserError
from compress.passes.int8 import Int8
from compress.quant import qat
from compress.quant.graph import layer_of
from compress.quant.ptq import prepare, quantizers_in
from compress.quant.samples import without_nan
from compress.task import Task

NAN, INFINITY = float("nan"), float("inf")


class Net(nn.Module):
    """An image and a mask, which is added to the features, to 3 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.body, self.head = nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
        self.logarithm = False

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(image)))
        y = self.body(y.log() if self.logarithm else y).mean((2, 3)) + mask.exp()
        return self.head(y)


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.zeros(8, 4)) for _ in range(3)]


def message(change: Callable[[Net, list[tuple[Tensor, Tensor]]], None]) -> str:
    """What the pass int8 says of a network and data after a change."""
    model, data = Net().eval(), batches()
    examples = tuple(x[:2].clone() for x in data[0])
    change(model, data)
    with pytest.raises(UserError) as error:
        compress.apply(Int8(), model, Task(examples, calibration=lambda: data))
    return str(error.value)


def put(tensor: Tensor, value: float, *index: int) -> None:
    tensor.data[index] = value


CASES: dict[str, tuple[Callable[[Net, list[tuple[Tensor, Tensor]]], None], str]] = {
    "weight": (
        lambda net, data: put(net.body.weight, NAN, 1, 2, 0, 0),
        "the weight 'body.weight' holds NaN or infinity; a model must work before it can be compressed",
    ),
    "infinite bias": (
        lambda net, data: put(net.head.bias, -INFINITY, 1),
        "the weight 'head.bias' holds NaN or infinity; a model must work before it can be compressed",
    ),
    "statistics": (
        lambda net, data: put(net.norm.running_mean, NAN, 2),
        "the buffer 'norm.running_mean' holds NaN; a model must work before it can be compressed",
    ),
    "a variance below zero": (
        lambda net, data: put(net.norm.running_var, -1.0, 2),
        "the weight of 'conv' holds NaN or infinity; check the model, and the statistics of a batch norm behind the layer",
    ),
    "data": (
        lambda net, data: put(data[2][0], NAN, 5, 1, 0, 0),
        "the calibration data hold NaN: sample 22, in the input 'image'; check the data",
    ),
    "data that no integer reads": (
        lambda net, data: put(data[0][1], NAN, 0, 3),
        "the calibration data hold NaN: sample 1, in the input 'mask'; check the data",
    ),
    "infinite data": (
        lambda net, data: put(data[1][0], INFINITY, 0, 0, 0, 0),
        "calibration met a NaN or an infinity in the input 'image'; check the model and its input",
    ),
    "born inside": (
        lambda net, data: setattr(net, "logarithm", True),
        "calibration met a NaN or an infinity in the output of 'log'; check the model and its input",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_pass_names_what_is_no_number(case: str) -> None:
    change, expected = CASES[case]
    assert message(change) == expected


def test_a_mask_of_minus_infinity_is_no_mistake() -> None:
    data = batches()
    put(data[0][1], -INFINITY, 0, 3)
    quantized = compress.apply(Int8(), Net().eval(), Task(tuple(x[:2] for x in data[0]), calibration=lambda: data))
    assert torch.isfinite(quantized(*data[0])).all()


@pytest.mark.parametrize("path", ["body.weight", "body.bias", "head.bias"])
def test_a_loop_of_ones_own_is_told_too(path: str) -> None:
    model = Net().eval()
    put(model.get_parameter(path), NAN, 0)
    layer, _, what = path.partition(".")
    with pytest.raises(UserError) as error:
        qat.prepare(model, batches()[0], calibration=batches)
    assert str(error.value) == (
        f"the {what} of '{layer}' holds NaN or infinity; check the model, and the statistics of a batch norm behind the layer"
    )


def test_a_graph_is_rebuilt_whatever_the_weights_are_before_they_are_loaded() -> None:
    """A loaded network is captured with the numbers that its constructor left, which may be anything."""
    model = Net().eval()
    put(model.body.weight, NAN, 0)
    graph_module, placement = prepare(model, batches()[0])
    assert [layer_of(node) for node in placement.weights] == ["conv", "body", "head"]
    assert len(quantizers_in(graph_module)) > 3


def test_what_are_numbers_pass_untouched() -> None:
    graph = torch.fx.symbolic_trace(nn.Linear(2, 2))
    data = [(torch.tensor([[1.0, INFINITY]]),), (torch.tensor([1, 2]),), (torch.tensor([True]),)]
    found = list(without_nan(graph, iter(data)))
    assert all(given is taken for given, taken in zip(data, found, strict=True))
