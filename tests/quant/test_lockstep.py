"""Both networks side by side against each of them run by itself."""

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from compress.quant import lockstep as module
from compress.quant.graph import layer_of
from compress.quant.lockstep import float_parameters, lockstep
from compress.quant.ptq import calibrate, prepare

Prepared = tuple[fx.GraphModule, dict[str, Tensor], list[tuple[Tensor, ...]]]


@pytest.fixture
def prepared(residual_net: nn.Module) -> Prepared:
    batches = [(torch.randn(4, 3, 16, 16),) for _ in range(3)]
    shapes = ({0: torch.export.Dim("batch")},)
    graph_module, _ = prepare(residual_net, batches[0], dynamic_shapes=shapes)
    calibrate(graph_module, lambda: batches, "minmax")
    return graph_module, float_parameters(graph_module), batches


def values_at(graph_module: nn.Module, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a node of the graph reads first, and what it gives."""
    seen = {}

    class Keeps(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if n.name == name:
                seen["inputs"], seen["outputs"] = self.env[n.args[0]].clone(), result.clone()
            return result

    Keeps(graph_module).run(x)
    return seen["inputs"], seen["outputs"]


def test_each_layer_sees_what_was_changed_before_it(prepared: Prepared) -> None:
    graph_module, originals, batches = prepared
    unchanged = copy.deepcopy(graph_module)
    for path, submodule in list(unchanged.named_modules()):
        if path.startswith("quantizers."):
            unchanged.set_submodule(path, nn.Identity())
    names = []
    for number, layer in enumerate(lockstep(graph_module, originals, lambda: batches, 99)):
        names.append(layer_of(layer.node))
        for part, given, expected in zip(batches, layer.inputs, layer.expected, strict=True):
            assert torch.equal(given, values_at(graph_module, layer.node.name, *part)[0])
            assert torch.equal(expected, values_at(unchanged, layer.node.name, *part)[1])
        graph_module.get_parameter(f"{names[-1]}.weight").data *= 1.5 + number
        graph_module.get_parameter(f"{names[-1]}.bias").data += 0.25
        for part, found in zip(batches, layer.run(), strict=True):
            assert torch.equal(found, values_at(graph_module, layer.node.name, *part)[1])
    assert names == ["stem", "conv1", "conv2", "shortcut.0", "head"]


def test_only_so_many_samples_are_used(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_module, originals, batches = prepared

    def sizes(samples: int) -> list[int]:
        return [len(x) for x in next(lockstep(graph_module, originals, lambda: batches, samples)).inputs]

    assert sizes(99) == [4, 4, 4]
    assert sizes(6) == [4, 2]
    floats = 2 * 16 * 16 * 16  # most is held where the stem's 16 channels stand beside their ReLU
    monkeypatch.setattr(module, "BYTES", 2 * 4 * floats * 5)
    assert sizes(99) == [4, 1]
    monkeypatch.setattr(module, "BYTES", 1)
    assert sizes(99) == [1]
