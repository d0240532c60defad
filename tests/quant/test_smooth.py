"""Smoothed networks compute what they did, with the ranges that the formula promises."""

import pytest
import torch
from torch import Tensor, nn

from compress.quant.graph import layer_of
from compress.quant.ptq import folded
from compress.quant.smooth import smooth_

MOVED = ("transposed", "permuted", "selected", "sliced")


class Block(nn.Module):
    """A transformer block with outliers in two channels of its first norm; `how` says who else reads that."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.norm, self.query, self.key = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.other = nn.Linear(8, 8)
        self.last, self.head = nn.LayerNorm(8, elementwise_affine=how != "plain"), nn.Linear(8, 3)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.uniform_(-0.5, 0.5)
            self.norm.weight[2:4] *= 50

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        scores = self.query(y.transpose(0, 1)).transpose(0, 1) @ self.key(y).transpose(1, 2)
        if self.how == "residual":
            x = x + y
        if self.how == "transposed":  # as many tokens as channels
            x = x + self.other(y.transpose(1, 2))
        if self.how == "permuted":
            x = x + self.other(y.permute(0, 2, 1))
        if self.how == "selected":
            x = x + self.other(y[:, :, 3]).unsqueeze(1)
        if self.how == "sliced":
            x = x + self.other(y[:, :, 2:].repeat(1, 1, 2)[:, :, :8])
        return self.head(self.last(scores @ x)[:, 0])


def at(graph_module: nn.Module, x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, (8,), graph_module.norm.weight, graph_module.norm.bias)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8])
def test_the_function_stays_and_ranges_follow_the_formula(alpha: float) -> None:
    model, batches = Block().eval(), [(torch.randn(4, 8, 8),), (torch.randn(4, 8, 8) * 2,)]
    graph_module = folded(model, batches[0])
    places = smooth_(graph_module, batches, alpha)
    names = [(layer_of(place.norm), [layer_of(reader) for reader in place.readers]) for place in places]
    assert names == [("norm", ["query", "key"]), ("last", ["head"])]
    for (x,) in batches:
        assert (graph_module(x) - model(x)).abs().max() <= 1e-5 * model(x).abs().max()
    largest = torch.stack([at(model, x).abs().amax((0, 1)) for (x,) in batches]).amax(0)
    of_weights = torch.maximum(model.query.weight.abs().amax(0), model.key.weight.abs().amax(0))
    factors = largest**alpha / of_weights ** (1 - alpha)
    found = torch.stack([at(graph_module, x).abs().amax((0, 1)) for (x,) in batches]).amax(0)
    assert torch.allclose(found, largest / factors, rtol=1e-4)
    assert torch.allclose(graph_module.query.weight, model.query.weight * factors, rtol=1e-4)
    if alpha == 0.5:  # as large in the activation as in the weights
        weights = torch.maximum(graph_module.query.weight.abs().amax(0), graph_module.key.weight.abs().amax(0))
        assert torch.allclose(found, weights, rtol=1e-4)


@pytest.mark.parametrize(("how", "left"), [("residual", ["last"]), ("plain", ["norm"]), *((how, ["last"]) for how in MOVED)])
def test_what_others_read_stays(how: str, left: list[str]) -> None:
    model, x = Block(how).eval(), torch.randn(4, 8, 8)
    graph_module = folded(model, (x,))
    assert [layer_of(place.norm) for place in smooth_(graph_module, [(x,)], 0.5)] == left
    assert torch.allclose(graph_module(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_channel_of_zeros_stays_and_the_model_too() -> None:
    model, x = Block().eval(), torch.randn(4, 8, 8)
    with torch.no_grad():
        model.norm.weight[5] = model.norm.bias[5] = 0
        model.query.weight[:, 6] = model.key.weight[:, 6] = 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph_module = folded(model, (x,))
    smooth_(graph_module, [(x,)], 0.5)
    assert torch.equal(graph_module.query.weight[:, 5:7], before["query.weight"][:, 5:7])
    assert torch.equal(graph_module.norm.weight[5:7], before["norm.weight"][5:7])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_without_layer_norms_no_batch_is_asked_for() -> None:
    def batches() -> object:
        raise AssertionError("a batch was asked for")
        yield

    graph_module = folded(nn.Sequential(nn.Linear(4, 3)).eval(), (torch.randn(2, 4),))
    assert smooth_(graph_module, batches(), 0.5) == []  # type: ignore[arg-type]
