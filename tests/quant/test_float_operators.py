"""Operators without an integer kernel: nothing is rounded for their sake, and the report names each with the reason."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compress
from compress.measure.coverage import optimized_graph
from compress.passes.int8 import Int8
from compress.quant.placement import place
from compress.quant.ptq import folded
from compress.quant.targets import OPENVINO, ORT_CPU, Target
from compress.task import Task


class AllFour(nn.Module):
    """An image (batch, 3, 8, 8) to 3 logits, past everything that has no integer kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.swish = nn.Conv2d(3, 8, 3, padding=1), nn.Hardswish()
        self.up, self.body = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1)
        self.first, self.act, self.second, self.head = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.up(self.swish(self.stem(x))))
        y = (y - y.mean(1, keepdim=True)).mean((2, 3))
        return self.head(y + self.second(self.act(self.first(y))))


def test_the_report_names_them_and_no_conversion_stands_between_two_of_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(16, 3, 8, 8)
    task = Task((images[:2],), calibration=lambda: [(images,)])
    run = compress.run(AllFour(), task, [Int8(keep_slow=True)], out=tmp_path / "out")
    why = "ONNX Runtime has no integer kernel for"
    coverage = run.report["integer_coverage"]
    assert [coverage[kind] for kind in ("conv", "linear")] == [[2, 3], [3, 3]]
    assert {layer["name"]: layer["reason"] for layer in coverage["left_in_float"]} == {
        "up": f"{why} conv_transpose2d",
        "hardswish in swish": f"{why} hardswish",
        "mean": f"{why} mean in this form",
        "gelu in act": f"{why} gelu",
    }
    for text in ("up stays in float", "hardswish in swish stays in float", "mean stays in float", "gelu in act stays in float"):
        assert f"- {text}: {why} " in (tmp_path / "out" / "report.md").read_text()
    found = [node.op_type for node in optimized_graph(tmp_path / "out" / "model.onnx").graph.node if node.op_type != "Transpose"]
    # Hard-swish is HardSigmoid and Mul; floats from its beginning to the end of the transposed convolution.
    swish = found.index("HardSigmoid")
    assert found[swish - 1 : swish + 5] == [
        "DequantizeLinear",
        "HardSigmoid",
        "Mul",
        "ConvTranspose",
        "QuantizeLinear",
        "QLinearConv",
    ]
    gelu = found.index("Gelu")
    assert found[gelu - 1 : gelu + 3] == ["QGemm", "Gelu", "QuantizeLinear", "QGemm"]  # the layer in front gives floats
    mean = found.index("ReduceMean")
    assert found[mean - 1 : mean + 2] == ["DequantizeLinear", "ReduceMean", "Sub"]


class Net(nn.Module):
    """Two convolutions with something in between."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), between

    def forward(self, x: Tensor) -> Any:
        return self.b(self.between(self.a(x)))


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "group_norm": lambda x: F.group_norm(x, 2),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "instance_norm": F.instance_norm,
    "layer_norm": lambda x: F.layer_norm(x, (6, 6)),
    "mish": F.mish,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "upsample_bilinear2d": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "upsample_bicubic2d": lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic"),
}
ABSORBED = {"elu", "gelu", "hardsigmoid", "hardswish", "mish", "tanh"}


def left_in_float(net: nn.Module, target: Target, *skipped: str) -> dict[str, str]:
    graph_module = folded(net.eval(), (torch.randn(2, 3, 8, 8),), target=target.name)
    return place(graph_module, lambda name: name in skipped, target).left_in_float


@pytest.mark.parametrize("name", OPERATORS)
def test_each_is_named(name: str) -> None:
    assert left_in_float(Net(OPERATORS[name]), ORT_CPU) == {name: f"ONNX Runtime has no integer kernel for {name}"}


@pytest.mark.parametrize("name", OPERATORS)
def test_openvino_computes_some_inside_the_layer_in_front_if_that_is_in_integers(name: str) -> None:
    named = {name: f"OpenVINO has no integer kernel for {name}"}
    assert left_in_float(Net(OPERATORS[name]), OPENVINO) == ({} if name in ABSORBED else named)
    assert left_in_float(Net(OPERATORS[name]), OPENVINO, "a") == {"a": "left in float by option", **named}


def test_an_average_that_nothing_in_integers_reads_is_no_lack_of_a_kernel() -> None:
    net = Net(F.relu)
    net.b = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert left_in_float(net, ORT_CPU) == {}


def test_a_name_that_comes_twice_is_there_once_and_many_are_counted() -> None:
    net = Net(lambda x: torch.tanh(torch.tanh(x)))
    assert Counter(left_in_float(net, ORT_CPU)) == Counter(
        {"tanh": "ONNX Runtime has no integer kernel for tanh", "tanh_1": "ONNX Runtime has no integer kernel for tanh"}
    )
