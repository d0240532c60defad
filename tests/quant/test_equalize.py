"""Equalized networks compute what they did, their ranges meet, and nothing is touched that must not be."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.quant.equalize import equalize_
from compress.quant.graph import layer_of
from compress.quant.ptq import folded


def uneven_(model: nn.Module) -> nn.Module:
    """Give the channels of all weights very different sizes."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                size = torch.exp(2 * torch.randn(len(module.weight)))
                module.weight.mul_(size.view(-1, *[1] * (module.weight.ndim - 1)))
                module.bias.mul_(size)
    return model.eval()


def chain(*layers: nn.Module) -> nn.Module:
    return uneven_(nn.Sequential(*layers))


IMAGES, VECTORS, TOKENS = (2, 3, 8, 8), (4, 6), (2, 5, 6)
CHAINS = {
    "conv": (lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), IMAGES, [("0", "2")]),
    "no relu": (lambda: chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), IMAGES, [("0", "1")]),
    "conv1d": (lambda: chain(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), (2, 3, 9), [("0", "2")]),
    "leaky": (lambda: chain(nn.Linear(6, 8), nn.LeakyReLU(0.1), nn.Linear(8, 4)), VECTORS, [("0", "2")]),
    "tokens": (lambda: chain(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4)), TOKENS, [("0", "3")]),
    "depthwise": (
        lambda: chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        IMAGES,
        [("0", "2"), ("2", "4")],
    ),
    "groups": (lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2)), IMAGES, [("0", "2")]),
    "pools": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ZeroPad2d(1), nn.AvgPool2d(2), nn.Conv2d(8, 4, 1)),
        IMAGES,
        [("0", "5")],
    ),
    "flatten": (lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)), IMAGES, [("0", "3")]),
    "pooled": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        IMAGES,
        [("0", "4")],
    ),
    "relu6": (lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3)), IMAGES, []),
    "gelu": (lambda: chain(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)), VECTORS, []),
    "width": (lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(6, 4)), IMAGES, []),  # reads pixels, not channels
    "constant": (lambda: chain(nn.Conv2d(3, 8, 3), nn.ConstantPad2d(1, 0.5), nn.Conv2d(8, 4, 3)), IMAGES, []),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_function_stays_and_the_ranges_meet(name: str) -> None:
    make, shape, expected = CHAINS[name]
    model, x = make(), torch.randn(shape)
    graph_module = folded(model, (x,))
    pairs = equalize_(graph_module)
    assert [(layer_of(pair.first), layer_of(pair.second)) for pair in pairs] == expected
    wanted = model(x)
    assert (graph_module(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    for pair in pairs:
        first = graph_module.get_parameter(f"{layer_of(pair.first)}.weight").detach()
        second = graph_module.get_parameter(f"{layer_of(pair.second)}.weight").detach()
        groups = pair.second.args[6] if len(pair.second.args) > 6 else 1
        outputs, inputs = [float(row.abs().max()) for row in first], []
        for channel in range(len(outputs)):  # the columns that see an output of the first layer, one group at a time
            wide = second.shape[1] // pair.repeats
            block, column = channel // wide, channel % wide * pair.repeats
            rows = slice(block * len(second) // groups, (block + 1) * len(second) // groups)
            inputs.append(float(second[rows, column : column + pair.repeats].abs().max()))
        assert outputs == pytest.approx(inputs, rel=3e-3)


class Reads(nn.Module):
    """A convolution whose output, weight or successor is used in a way that forbids scaling."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        if how == "tied":
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        if self.how == "twice":
            return self.second(y) + self.third(y)
        if self.how == "again":
            return self.second(F.relu(self.second(y)))
        if self.how == "as bias":
            return self.second(y) + self.first.bias.view(1, -1, 1, 1)
        return self.second(y)


@pytest.mark.parametrize("how", ["twice", "again", "as bias", "tied"])
def test_what_others_read_stays(how: str) -> None:
    model, x = uneven_(Reads(how)), torch.randn(2, 4, 6, 6)
    graph_module = folded(model, (x,))
    before = {name: value.clone() for name, value in graph_module.state_dict().items()}
    assert equalize_(graph_module) == []
    assert all(torch.equal(before[name], value) for name, value in graph_module.state_dict().items())


def test_dead_channels_and_the_model_stay() -> None:
    model, x = CHAINS["conv"][0](), torch.randn(IMAGES)
    with torch.no_grad():
        model[0].weight[1] = 0
        model[2].weight[:, 2] = 0
    before = copy.deepcopy(model.state_dict())
    graph_module = folded(model, (x,))
    assert len(equalize_(graph_module)) == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    after = graph_module.state_dict()
    assert torch.equal(after["0.bias"][1:3], before["0.bias"][1:3])
    assert torch.equal(after["0.weight"][2], before["0.weight"][2])
    assert (graph_module(x) - model(x)).abs().max() <= 1e-5 * model(x).abs().max()


def test_one_scale_for_a_whole_weight_loses_less_after_equalization() -> None:
    """What it is for: error of the product where every weight has one scale, without and with."""
    model, x = CHAINS["depthwise"][0](), torch.randn(8, 3, 8, 8)
    wanted = model(x).detach()

    def error(equalize: bool) -> float:
        graph_module = folded(copy.deepcopy(model), (x,))
        if equalize:
            equalize_(graph_module)
        for value in graph_module.parameters():
            if value.ndim > 1:
                step = value.detach().abs().max() / 127
                value.data = (value.detach() / step).round() * step
        return float((graph_module(x).detach() - wanted).square().mean())

    assert error(equalize=True) < 0.5 * error(equalize=False)
