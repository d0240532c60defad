"""The error of each layer against graphs in which only that layer is quantized, and against sums by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from compress.quant.fake_quantize import ActivationQuantizer
from compress.quant.layer_errors import LayerError, decibels, layer_errors
from compress.quant.ptq import QUANTIZERS, calibrate, folded, prepare
from compress.quant.scheme import Scheme


def quantized(model: nn.Module, *inputs: Tensor, exclude: tuple[str, ...] = (), ranges: str = "mse") -> fx.GraphModule:
    graph_module, _ = prepare(
        model.eval(), inputs, Scheme(exclude), dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    )
    calibrate(graph_module, lambda: [tuple(x.clone() for x in inputs)], ranges)
    return graph_module


def errors(graph_module: fx.GraphModule, *batches: tuple[Tensor, ...]) -> dict[str, LayerError]:
    return {layer.name: layer for layer in layer_errors(graph_module, batches)[0]}


def ratio(exact: Tensor, found: Tensor) -> float:
    exact, found = exact.detach().double(), found.detach().double()
    return 10 * math.log10(float(exact.square().sum() / (found - exact).square().sum()))


class Recorder(fx.Interpreter):
    """Runs a graph and keeps what every node gives."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.kept[n.name] = result.clone() if isinstance(result, Tensor) else result
        return result


def values(graph_module: fx.GraphModule, *inputs: Tensor) -> dict[str, Tensor]:
    """What every node of the graph gives, by its name; a quantizer's is `quantizers_NAME`."""
    recorder = Recorder(graph_module)
    recorder.kept = {}
    with torch.no_grad():
        recorder.run(*inputs)
    return recorder.kept


LAYERS = ["x", "stem", "conv1", "conv2", "shortcut.0", "add behind conv2", "adaptive_avg_pool2d", "head"]


def test_every_layer_has_a_row_in_the_order_of_the_network(residual_net: nn.Module, images: Tensor) -> None:
    found, samples = layer_errors(quantized(residual_net, images), [(images,), (images[:3],)])
    assert samples == 11
    assert [layer.name for layer in found] == LAYERS
    assert [layer.kind for layer in found] == ["input", *["conv"] * 4, "add", "adaptive_avg_pool2d", "linear"]
    assert [layer.bits for layer in found] == [None, 8, 8, 8, 8, None, None, 8]
    assert [layer.low is None for layer in found] == [False] * 7 + [True]  # the logits stay in float


@pytest.mark.parametrize(("layer", "end"), [("stem", "relu"), ("conv1", "relu_1"), ("conv2", "conv2d_2")])
def test_own_error_is_that_of_a_graph_with_this_layer_alone(
    residual_net: nn.Module, images: Tensor, layer: str, end: str
) -> None:
    whole = quantized(residual_net, images)
    others = tuple(other for other in ("stem", "conv1", "conv2", "shortcut.0", "head") if other != layer)
    alone, _ = prepare(residual_net, (images,), Scheme(others))
    alone.load_state_dict(whole.state_dict(), strict=False)
    exact = values(folded(residual_net, (images,)), images)[end]
    rounded = values(alone, images)[f"{QUANTIZERS}_{end}"]
    assert errors(whole, (images,))[layer].own_db == pytest.approx(ratio(exact, rounded), abs=1e-3)


def test_own_error_of_a_layer_behind_a_pool_does_not_count_the_pools(residual_net: nn.Module, images: Tensor) -> None:
    whole = quantized(residual_net, images)
    into, weight = (whole.get_submodule(f"{QUANTIZERS}.{name}") for name in ("adaptive_avg_pool2d", "head_weight"))
    exact = values(folded(residual_net, (images,)), images)
    with torch.no_grad():
        rounded = F.linear(into(exact["flatten"]), weight(residual_net.head.weight), residual_net.head.bias)
    assert errors(whole, (images,))["head"].own_db == pytest.approx(ratio(exact["linear"], rounded), abs=1e-3)


def test_accumulated_error_is_that_of_the_whole_network(residual_net: nn.Module, images: Tensor) -> None:
    whole = quantized(residual_net, images)
    found = errors(whole, (images[:3],), (images[3:],))
    with torch.no_grad():
        assert found["head"].accumulated_db == pytest.approx(ratio(residual_net(images), whole(images)), abs=1e-3)
    assert found["stem"].accumulated_db == found["stem"].own_db  # nothing came before but the input, which is its own
    assert found["head"].accumulated_db < found["head"].own_db - 1


def test_weight_error_range_and_clipping_by_hand() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), torch.randn(50, 6)
    whole = quantized(model, x)
    output = whole.get_submodule(f"{QUANTIZERS}.linear")
    assert isinstance(output, ActivationQuantizer)
    output.set_range(-0.5, 0.5)
    found = errors(whole, (x,))["0"]
    scale = model[0].weight.abs().amax(1, keepdim=True) / 127
    assert found.weight_db == pytest.approx(ratio(model[0].weight, (model[0].weight / scale).round() * scale), abs=1e-3)
    step = 1 / 255
    assert (found.low, found.high) == (pytest.approx(-128 * step), pytest.approx(127 * step))
    y = model[0](x)
    outside = (y < -128.5 * step) | (y > 127.5 * step)
    assert found.clipped == int(outside.sum()) / 200 > 0.1


def test_what_rounding_brings_back_into_the_range_is_not_clipped() -> None:
    model, x = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), torch.tensor([[-128.6], [-128.4], [0.0], [127.4], [127.6]]) / 255
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.zero_()
    whole = quantized(model, x)
    whole.get_submodule(f"{QUANTIZERS}.linear").set_range(-0.5, 0.5)  # codes -128 to 127 in steps of 1 / 255
    assert errors(whole, (x,))["0"].clipped == 2 / 5


def test_one_large_channel_hides_the_others_from_the_whole_but_not_from_single_channels() -> None:
    model, x = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 2)), torch.randn(50, 6)
    with torch.no_grad():
        model[0].weight[4] *= 1000
    found = errors(quantized(model, x, ranges="minmax"), (x,))["0"]
    assert found.own_db > 35 > 5 > found.channel_db
    y, rounded = model[0](x), values(quantized(model, x, ranges="minmax"), x)[f"{QUANTIZERS}_linear"]
    per_channel = [ratio(y[:, channel], rounded[:, channel]) for channel in range(9)]
    assert found.channel_db == pytest.approx(sorted(per_channel)[4], abs=0.1)


def test_a_layer_left_in_float_has_no_bits_and_the_error_of_what_it_reads_and_gives() -> None:
    layers = [nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)]
    model, x = nn.Sequential(*layers), torch.randn(9, 2, 5, 5)
    whole = quantized(model, x, exclude=("2",))
    found = errors(whole, (x,))
    assert (found["2"].bits, found["2"].weight_db) == (None, None)
    into, out = (whole.get_submodule(f"{QUANTIZERS}.{name}") for name in ("relu", "relu_1"))
    with torch.no_grad():
        exact = model[:4](x)
        rounded = out(model[2:4](into(model[:2](x))))
    assert found["2"].own_db == pytest.approx(ratio(exact, rounded), abs=1e-3)
    assert errors(quantized(model, x, exclude=("*",)), (x,))["2"].own_db is None


class Twice(nn.Module):
    """One layer called twice, with operators that write into their inputs behind and before it, and into the model's."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Hardswish(inplace=inplace), nn.Conv2d(3, 2, 1)
        self.clip = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(self.act(x)))
        return self.head(self.clip(self.conv(x)))


def test_a_second_call_has_a_row_and_writing_in_place_changes_nothing() -> None:
    x = torch.randn(4, 3, 6, 6)
    plain, inplace = (layer_errors(quantized(Twice(inplace), x), [(x.clone(),)])[0] for inplace in (False, True))
    assert {"conv", "conv#2", "head"} <= {layer.name for layer in plain}
    assert plain == inplace


def test_decibels() -> None:
    assert decibels(100.0, 1.0) == 20
    assert decibels(100.0, 0.0) is None


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [(Scheme(activations="dynamic"), 8), (Scheme(weight_bits=4, activations="float", block_size=16), 4)],
    ids=["dynamic", "weights alone"],
)
def test_without_calibrated_ranges(scheme: Scheme, bits: int) -> None:
    """Of two layers in a row: each by itself on what the float network has there, and the second behind the first."""
    first, second, x = nn.Linear(32, 32), nn.Linear(32, 4), torch.randn(8, 32)
    model = nn.Sequential(first, nn.ReLU(), second)
    with torch.no_grad():
        hidden = torch.relu(first(x))
        alone = [prepare(nn.Sequential(layer), (at,), scheme)[0](at) for layer, at in ((first, x), (second, hidden))]
        together = prepare(model, (x,), scheme)[0](x)
        found = errors(prepare(model, (x,), scheme)[0], (x,))
        expected = [ratio(first(x), alone[0]), ratio(model(x), alone[1])]
        assert [found[name].own_db for name in ("0", "2")] == pytest.approx(expected, abs=1e-3)
        assert found["2"].accumulated_db == pytest.approx(ratio(model(x), together), abs=1e-3)
    assert [found[name].bits for name in ("0", "2")] == [bits, bits]
