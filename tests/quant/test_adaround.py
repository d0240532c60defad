"""Learned rounding against all roundings there are, and what must hold of the rounded network."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from compress.progress import watch
from compress.quant import adaround
from compress.quant.adaround import adaround_, learn_codes, rectified_sigmoid
from compress.quant.lockstep import float_parameters
from compress.quant.ptq import calibrate, folded, insert_quantizers
from compress.quant.scheme import Scheme

STEPS = 300


def correlated(rows: int, features: int) -> Tensor:
    """Inputs that have much in common, as behind a ReLU: errors of weights add up, so rounding to nearest is not best."""
    return torch.rand(rows, 1) * 2 + 0.3 * torch.rand(rows, features)


def best(exact: Tensor, error: Callable[[Tensor], float]) -> float:
    """The smallest error of all ways to round up or down."""
    ways = itertools.product((0.0, 1.0), repeat=exact.numel())
    return min(error(exact.floor() + torch.tensor(way).view_as(exact)) for way in ways)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_learned_codes_are_nearly_the_best_of_all(seed: int, clip: bool) -> None:
    torch.manual_seed(seed)
    activation = torch.relu if clip else lambda y: y
    exact, scale = torch.randn(1, 1, 10) * 3, torch.full((1, 1, 1), 0.1)
    x = correlated(512, 10).unsqueeze(0)
    shift = -(x @ (exact * scale).transpose(1, 2)).median().view(1, 1, 1)  # half of the outputs are cut off by the ReLU
    y = x @ (exact * scale).transpose(1, 2) + shift

    def error(codes: Tensor) -> float:
        found = x @ (codes * scale).transpose(1, 2) + shift
        return float((activation(found) - activation(y)).square().mean())

    codes = learn_codes(exact, scale, shift, x, y, largest_code=127, steps=STEPS, activation=activation)
    assert torch.equal(codes, codes.round())
    assert ((codes - exact).abs() < 1).all()
    assert error(codes) <= min(error(exact.round()), 3 * best(exact, error))


def test_a_target_that_needs_the_other_rounding_is_met() -> None:
    """Targets of a weight that was rounded down everywhere: the inputs of a quantized network carry errors of their own."""
    exact, x = torch.rand(1, 4, 8) * 5, correlated(512, 8).unsqueeze(0)
    codes = learn_codes(
        exact, torch.ones(1, 4, 1), torch.zeros(1, 1, 4), x, x @ exact.floor().transpose(1, 2), largest_code=127, steps=STEPS
    )
    assert torch.equal(codes, exact.floor())


def test_behind_a_relu_no_target_is_below_zero() -> None:
    exact, x = torch.randn(1, 8, 32) * 3, correlated(512, 32).unsqueeze(0)
    y = x @ exact.transpose(1, 2)
    rest = {"largest_code": 127, "steps": STEPS, "activation": torch.relu}
    first, second = (learn_codes(exact, torch.ones(1, 8, 1), torch.zeros(1, 1, 8), x, to, **rest) for to in (y, y.relu()))
    assert torch.equal(first, second)


def test_codes_stay_within_their_bits_and_zeros_stay() -> None:
    exact = torch.tensor([[[7.4, -7.8, 0.0, 2.5, -1.5, 0.0, 6.9, -6.2]]])
    x = correlated(256, 8).unsqueeze(0)
    y = x.sum(2, keepdim=True) * 5  # asks for more of everything
    codes = learn_codes(exact, torch.ones(1, 1, 1), torch.zeros(1, 1, 1), x, y, largest_code=7, steps=STEPS)
    assert codes.flatten().tolist() == [7, -7, 0, 3, -1, 0, 7, -6]


def test_the_rectified_sigmoid_reaches_both_ends() -> None:
    assert rectified_sigmoid(torch.tensor([-9.0, 0.0, 9.0])).tolist() == [0.0, 0.5, 1.0]


class Net(nn.Module):
    """Convolutions with groups, one on a residual path, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.head(F.relu(x + self.second(x)).mean((2, 3)))


BATCHES = [(torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed)),) for seed in range(3)]


def quantized(model: nn.Module, bits: int = 4) -> tuple[fx.GraphModule, dict[str, Tensor]]:
    graph_module = folded(model.eval(), BATCHES[0], ({0: torch.export.Dim("batch")},))
    insert_quantizers(graph_module, Scheme(weight_bits=bits))
    originals = float_parameters(graph_module)
    calibrate(graph_module, lambda: BATCHES, "minmax")
    return graph_module, originals


def error(graph_module: nn.Module, model: nn.Module) -> float:
    return sum((graph_module(x) - model(x)).square().mean().item() for (x,) in BATCHES)


def test_a_network_loses_less_and_keeps_its_structure() -> None:
    model = Net()
    with torch.no_grad():
        model.first.weight[:, :, 1] = 0
    graph_module, originals = quantized(model)
    code, scales = graph_module.code, {n: x.clone() for n, x in graph_module.named_buffers()}
    nearest = error(graph_module, model)
    seen: list[tuple[str, int, int | None]] = []
    with watch(lambda what, done, total, note: seen.append((what, done, total))):
        assert adaround_(graph_module, originals, lambda: BATCHES, steps=STEPS) == 3
    assert seen == [("adaround", done, 3) for done in (1, 2, 3)]
    assert error(graph_module, model) < 0.5 * nearest
    assert graph_module.code == code
    assert all(torch.equal(scales[name], value) for name, value in graph_module.named_buffers())
    for name in ("first", "second", "head"):
        weight, quantizer = graph_module.get_parameter(f"{name}.weight"), graph_module.quantizers.get_submodule(f"{name}_weight")
        assert torch.equal(quantizer(weight), weight)  # on the grid
        codes = weight / quantizer.scale.view(-1, *[1] * (weight.ndim - 1))
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        assert codes.abs().max() <= 7.001
        assert (codes - originals[f"{name}.weight"] / quantizer.scale.view(-1, *[1] * (weight.ndim - 1))).abs().max() < 1.001
        assert (codes.round() != 0).any()
    assert (graph_module.get_parameter("first.weight")[:, :, 1] == 0).all()
    assert torch.equal(model.second.weight, originals["second.weight"])


def test_the_seed_decides_the_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaround, "ROWS", 99)

    def weights(seed: int) -> list[Tensor]:
        torch.manual_seed(0)
        graph_module, originals = quantized(Net())
        torch.manual_seed(seed + 5)  # not this one
        adaround_(graph_module, originals, lambda: BATCHES, steps=20, seed=seed)
        return [value.detach() for value in graph_module.parameters()]

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(first, other, strict=True))


def test_a_weight_that_two_layers_read_is_rounded_to_nearest() -> None:
    twice, once = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
    graph_module, originals = quantized(nn.Sequential(twice, nn.ReLU(), once, nn.ReLU(), twice))
    assert adaround_(graph_module, originals, lambda: BATCHES, steps=20) == 1
    unchanged = {name for name, value in graph_module.named_parameters() if torch.equal(value, originals[name])}
    assert unchanged == originals.keys() - {"2.weight"}
