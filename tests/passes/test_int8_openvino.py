"""int8 for OpenVINO: where the quantizers stand, what the file looks like, and, where it is installed, what it executes."""

import copy
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import compress
from compress.artifact import Artifact
from compress.errors import UserError
from compress.export import export_onnx
from compress.measure.coverage import operators_of
from compress.passes.int8 import Int8
from compress.pipeline import runtime_of
from compress.quant.graph import layer_of
from compress.quant.ptq import quantizers_in
from compress.report.text import headline
from compress.task import Task
from compress.testing import check_pass, tiny_model, tiny_task

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}


class Swishing(nn.Module):
    """An image (batch, 3, any, any) to 5 logits: a wide stem, activations behind convolutions, a gate, a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.body, self.gate, self.up = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 1), nn.ConvTranspose2d(64, 8, 2, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.stem(x))
        y = y + nn.functional.silu(self.body(y))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head(self.up(y).mean((2, 3)))


class Attending(nn.Module):
    """Tokens (batch, 9, 16) to 5 logits, through one attention of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o, self.head = (nn.Linear(16, out) for out in (16, 16, 16, 16, 5))

    def forward(self, x: Tensor) -> Tensor:
        heads = [layer(x).view(-1, 9, 2, 8).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(-1, 9, 16)
        return self.head((x + self.o(mixed)).mean(1))


def network(kind: type[nn.Module], *shape: int) -> tuple[nn.Module, Task]:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(32, *shape)
    with torch.no_grad():
        wanted = model(x).argmax(1).numpy()
    return model, Task(
        (x[:2],), calibration=lambda: [(x,)], evaluate=lambda predict: float((predict(x).argmax(1) == wanted).mean())
    )


def quantized(model: nn.Module, task: Task, target: Any, path: Path) -> tuple[fx.GraphModule, list[str]]:
    """The network, and the operators of its file."""
    found = compress.apply(Int8(target=target, keep_slow=True), model, task)
    assert isinstance(found, fx.GraphModule)
    export_onnx(found, task.example_inputs, path, Artifact.start(model, task).signature)
    return found, [node.op_type for node in onnx.load(path).graph.node]


def test_activations_are_computed_before_the_rounding(tmp_path: Path) -> None:
    model, task = network(Swishing, 3, 32, 32)
    rounded = {}
    for target in ("ort-cpu", "openvino"):
        graph, operators = quantized(model, task, target, tmp_path / f"{target}.onnx")
        nodes = [node for node in graph.graph.nodes if node.op == "call_module" and node.args[0].op == "call_function"]
        rounded[target] = [str(node.args[0].target).split(".")[1] for node in nodes]
        assert ("SpaceToDepth" in operators) == (target == "ort-cpu")
    ends = ["conv_transpose2d", "mean"]  # what a mean reads and gives out; the gated product before is read in float alone
    assert rounded["openvino"] == ["hardswish", "silu", "add", "mean", "sigmoid", *ends]
    assert rounded["ort-cpu"] == ["conv2d", "hardswish", "conv2d", "sigmoid", "mul", "add", "mean", "conv2d", *ends]


def test_linear_layers_of_a_sequence_stay_matrix_products(tmp_path: Path) -> None:
    """OpenVINO cannot open the reshapes between a Gemm and the heads of an attention."""
    model, task = network(Attending, 9, 16)
    assert quantized(model, task, "ort-cpu", tmp_path / "a.onnx")[1].count("Gemm") == 5
    assert quantized(model, task, "openvino", tmp_path / "b.onnx")[1].count("Gemm") == 1  # of two axes by itself
    found = operators_of(onnx.load(tmp_path / "b.onnx").graph)  # which openvino_coverage counts
    assert (len(found["linear"]), len(found["product"])) == (5, 2)


def test_it_keeps_the_contract() -> None:
    check_pass(Int8(target="openvino"), *network(Swishing, 3, 16, 16))


def test_without_the_runtime_a_run_is_refused_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError) as error:
        compress.run(tiny_model(), tiny_task(), [Int8(target="openvino")], out=tmp_path / "out")
    assert str(error.value) == (
        "the runtime openvino is not installed; install it with: pip install 'compress-toolkit[openvino]'"
    )
    assert not (tmp_path / "out").exists()
    assert runtime_of([Int8()]) == "ort-cpu"
    assert quantizers_in(compress.apply(Int8(target="openvino"), tiny_model(), tiny_task()))  # which measures nothing


def test_another_target_is_told() -> None:
    with pytest.raises(UserError) as error:
        Int8(target="tensorrt")  # type: ignore[arg-type]
    assert str(error.value) == "int8: target must be one of ort-cpu, openvino, got 'tensorrt'"


def test_a_run_is_measured_by_openvino_and_counts_what_that_executes(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model, task = network(Swishing, 3, 32, 32)
    run = compress.run(model, task, [Int8(target="openvino", exclude=("body",))], out=tmp_path / "out", timing=QUICK)
    assert {stage["latency_ms"]["runtime"] for stage in run.report["stages"]} == {"openvino"}
    assert {row["latency_ms"]["runtime"] for row in run.report["benchmarks"]} == {"openvino"}
    assert "; openvino, batch 1, 1 thread)" in headline(run.report)[0]
    assert run.report["stages"][1]["accuracy"] > 0.9
    coverage = run.report["integer_coverage"]
    assert [coverage[kind] for kind in ("conv", "linear")] == [[2, 4], [1, 1]]
    assert {layer["name"]: layer["reason"] for layer in coverage["left_in_float"]} == {
        "body": "left in float by option",
        "up": "OpenVINO has no integer kernel for conv_transpose2d",
        "silu": "OpenVINO has no integer kernel for silu",
    }
    loaded = compress.load(tmp_path / "out", model=copy.deepcopy(model))
    assert torch.equal(loaded(task.example_inputs[0]), run.model(task.example_inputs[0]))


def test_an_attention_opens_with_its_layers_in_integers(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model, task = network(Attending, 9, 16)
    run = compress.run(model, task, [Int8(target="openvino")], out=tmp_path / "out", timing=QUICK)
    coverage = run.report["integer_coverage"]
    assert (coverage["linear"], coverage["product"]) == ([5, 5], [0, 2])
    assert [layer_of(node) for node in run.model.graph.nodes if "linear" in str(node.target)] == ["q", "k", "v", "o", "head"]
