"""Where the time goes: each layer has its share, and conversions are charged to the layers beside them."""

import time
from pathlib import Path

import torch
from onnx import helper
from torch import nn

from compress.export import export_onnx, signature
from compress.measure.profile import RUNS, _charged, layer_times


def test_the_larger_layer_takes_longer_and_all_together_no_longer_than_the_whole(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 64, 5), nn.ReLU(), nn.Conv2d(64, 2, 1))
    x = torch.randn(1, 3, 40, 40)
    path = tmp_path / "net.onnx"
    export_onnx(model.eval(), (x,), path, signature(model, (x,)))
    begun = time.perf_counter()
    times = layer_times(path, [x.numpy()], ["0", "2", "absent"])
    elapsed = (time.perf_counter() - begun) * 1000
    assert set(times) == {"0", "2"}
    assert times["2"] > 3 * times["0"] > 0
    assert sum(times.values()) < elapsed / RUNS


def test_conversions_are_charged_to_the_layers_beside_them() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="in"),
        helper.make_node("QLinearConv", ["q"], ["a"], name="a"),
        helper.make_node("DequantizeLinear", ["a", "s", "z"], ["f"], name="out"),
        helper.make_node("HardSwish", ["f"], ["h"], name="h"),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["r"], name="again"),
        helper.make_node("QLinearConv", ["r"], ["b"], name="b_nhwc"),
        helper.make_node("Transpose", ["b"], ["t"], name="between"),
        helper.make_node("QLinearConv", ["t"], ["c"], name="c_token_7"),
    ]
    charged = _charged(helper.make_graph(nodes, "g", [], []), {"a", "b", "c"})
    wanted = {"in": ["a"], "a": ["a"], "out": ["a"], "h": [], "again": ["b"], "b_nhwc": ["b"], "between": ["b", "c"]}
    assert charged == {**wanted, "c_token_7": ["c"]}
