"""The scheme as plain data, its patterns, and what its options make of the graph."""

import json

import pytest
import torch
from torch import Tensor, nn

from compress.quant.fake_quantize import ActivationQuantizer, WeightQuantizer
from compress.quant.graph import layer_of
from compress.quant.ptq import QUANTIZERS, calibrate, prepare
from compress.quant.scheme import Scheme


def test_globs_match_whole_names_only() -> None:
    scheme = Scheme(exclude=("layer4.*", "conv1"))
    names = ("layer4.0.conv1", "layer4", "conv1", "layer1.0.conv1", "conv10")
    assert [scheme.excludes(name) for name in names] == [True, False, True, False, False]
    assert not Scheme().excludes("anything")


def test_the_last_pattern_decides_the_bits() -> None:
    scheme = Scheme(weight_bits=6, layer_bits={"a.*": 4, "a.b": 3, "*c": 2})
    assert [scheme.bits_of(name) for name in ("a.b", "a.c", "c", "d")] == [3, 2, 2, 6]


def test_it_survives_json_and_reads_what_older_manifests_hold() -> None:
    scheme = Scheme(("a*",), 4, {"b": 3}, per_channel=False, symmetric=True, biases=True)
    assert Scheme.from_dict(json.loads(json.dumps(scheme.to_dict())) | {"other": 1}) == scheme
    assert Scheme.from_dict({"exclude": ["a"], "weight_bits": 7}) == Scheme(("a",), 7)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per_channel", [True, False])
def test_codes_stay_within_their_bits(bits: int, per_channel: bool) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 6, 6)
    graph_module, _ = prepare(model, (x,), Scheme(weight_bits=bits, per_channel=per_channel))
    quantizer = graph_module.get_submodule(f"{QUANTIZERS}._0_weight")
    assert isinstance(quantizer, WeightQuantizer)
    largest = model[0].weight.abs().amax((1, 2, 3)) if per_channel else model[0].weight.abs().amax()
    assert torch.allclose(quantizer.scale, largest / (2 ** (bits - 1) - 1))
    scale = quantizer.scale.view(-1, 1, 1, 1)
    codes = (quantizer(model[0].weight) / scale).round()
    assert codes.abs().max() == 2 ** (bits - 1) - 1
    assert ((quantizer(model[0].weight) - model[0].weight).abs() <= 0.501 * scale).all()


def test_layers_have_bits_of_their_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    graph_module, placement = prepare(model, (torch.randn(2, 3, 8, 8),), Scheme(layer_bits={"1": 4}))
    found = {name: graph_module.get_submodule(f"{QUANTIZERS}._{name}_weight").largest_code for name in placement.layers}
    assert found == {"0": 127, "1": 7}


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-3.0, 1.0), (0.0, 2.0), (-2.0, 0.0)])
def test_a_symmetric_range_covers_what_it_should_with_zero_in_the_middle(low: float, high: float) -> None:
    quantizer = ActivationQuantizer(symmetric=True)
    quantizer.set_range(low, high)
    ends = torch.tensor([low, high])
    assert torch.allclose(quantizer(ends), ends, atol=0.51 * quantizer.scale.item())
    assert quantizer.zero_point == (128 if low < 0 < high else 255 if low < 0 else 0)


def bare() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(64, 5, bias=False))


def test_biases_are_added_where_there_were_none_and_change_nothing() -> None:
    model, x = bare(), torch.randn(2, 3, 6, 6)
    plain, _ = prepare(model, (x,))
    biased, placement = prepare(model, (x,), Scheme(biases=True))
    for graph_module in (plain, biased):
        calibrate(graph_module, lambda: [(x,)], "minmax")
    assert torch.equal(plain(x), biased(x))
    added = set(biased.state_dict()) - set(plain.state_dict())
    assert added == {"0.bias", "2.bias"}
    assert [layer_of(node) for node in placement.weights] == ["0", "2"]
    with torch.no_grad():
        biased.get_parameter("2.bias").fill_(1.0)
    assert torch.allclose(biased(x), plain(x) + 1)


def test_a_weight_used_twice_has_a_bias_for_each_use() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).relu())

    graph_module, _ = prepare(Twice(), (torch.randn(3, 4),), Scheme(biases=True))
    assert {name for name in graph_module.state_dict() if "bias" in name} == {"layer.bias", "layer.bias_folded"}
