"""Corrected biases against means that are computed layer by layer, and the largest that an int32 takes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.quant.bias_correction import correct_biases_
from compress.quant.lockstep import float_parameters
from compress.quant.ptq import LARGEST_BIAS_CODE, calibrate, folded, insert_quantizers
from compress.quant.scheme import Scheme


def corrected(model: nn.Module, batches: list[tuple[Tensor, ...]], bits: int = 3) -> tuple[nn.Module, nn.Module, int]:
    """The quantized graph before and after, and how many biases were changed."""
    graph_module = folded(model.eval(), batches[0], tuple({0: torch.export.Dim("batch")} for _ in batches[0]))
    insert_quantizers(graph_module, Scheme(weight_bits=bits, biases=True))
    calibrate(graph_module, lambda: batches, "minmax")
    before = copy.deepcopy(graph_module)
    return before, graph_module, correct_biases_(graph_module, float_parameters(before), lambda: batches)


def test_means_per_channel_become_those_of_the_float_network() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 5, bias=False)
    )
    batches = [(torch.rand(5, 3, 8, 8),), (torch.rand(3, 3, 8, 8) + 1,)]
    before, graph_module, count = corrected(model, batches)
    assert count == 3
    assert not any(buffer.requires_grad for buffer in graph_module.buffers())
    x = torch.cat([part for (part,) in batches])
    quantizers, weights = graph_module.quantizers, graph_module.state_dict()

    def layer(given: Tensor, index: int, bias: Tensor) -> Tensor:
        weight = quantizers.get_submodule(f"_{index}_weight")(weights[f"{index}.weight"])
        return F.linear(given, weight, bias) if index == 4 else F.conv2d(given, weight, bias)

    # The means of float and quantized outputs, one layer after another, with biases as they are found at last.
    exact, found = x, quantizers.input_1(x)
    for index, axes in ((0, (0, 2, 3)), (2, (0, 2, 3)), (4, (0,))):
        exact = model[index](exact)
        bias = weights[f"{index}.bias"]
        assert torch.allclose(layer(found, index, bias).mean(axes), exact.mean(axes), atol=1e-5)
        old = before.state_dict()[f"{index}.bias"]
        assert torch.allclose(bias, old - (layer(found, index, old).mean(axes) - exact.mean(axes)), atol=1e-5)
        found = layer(found, index, bias)
        if index == 0:
            exact, found = exact.relu(), quantizers.relu(found.relu())
        if index == 2:
            exact, found = exact.flatten(1), quantizers.conv2d_1(found).flatten(1)
    wanted = model(x)
    errors = [(graph(x) - wanted).square().mean().item() for graph in (before, graph_module)]
    assert errors[1] < 0.5 * errors[0]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.twice(self.twice(x).relu()).relu())


def test_a_bias_that_two_layers_read_stays() -> None:
    model, batches = Shared(), [(torch.rand(9, 6),)]
    before, graph_module, count = corrected(model, batches)
    assert count == 1
    assert torch.equal(graph_module.twice.bias, before.twice.bias)
    assert torch.equal(model.head.bias, before.head.bias)
    assert not torch.equal(graph_module.head.bias, before.head.bias)


@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_corrected_biases_of_dead_channels_do_not_overflow(size: float) -> None:
    model, x = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False)), torch.rand(4, 1, 6, 6)
    with torch.no_grad():
        model[0].weight.fill_(0.7)
        model[0].bias.fill_(0.1)
        model[2].weight[1] *= size
    graph_module = folded(model.eval(), (x,))
    insert_quantizers(graph_module, Scheme(biases=True))
    originals = float_parameters(graph_module)
    originals["2.weight"][1] = 0.5  # as if rounding had taken the channel
    calibrate(graph_module, lambda: [(x,)], "minmax")
    correct_biases_(graph_module, originals, lambda: [(x,)])
    bias = graph_module.get_parameter("2.bias").detach()
    assert bias[1] > 0.01
    step = graph_module.quantizers.relu.scale * graph_module.quantizers._2_weight.scale
    assert (bias.abs() / step).max() <= 1.001 * LARGEST_BIAS_CODE
