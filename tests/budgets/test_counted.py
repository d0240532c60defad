"""Budgets of MACs and of parameters, on a network that a pencil counts: met, and by no channel more than it takes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.budgets import Budget, parse, ratio_for
from compress.errors import UserError
from compress.measure import count_macs, count_parameters
from compress.pruning.channels import ChannelPruner, Settings


class Two(nn.Module):
    """Images (batch, 3, 4, 4): convolutions to 16 and to 32 channels of one pixel's width, and a linear layer to 5 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


X = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)),)


def two(**settings: object) -> tuple[nn.Module, ChannelPruner]:
    model = Two().eval()
    return model, ChannelPruner(model, X, Settings(**{"round_to": 1, **settings}))


def macs(a: int, b: int) -> int:
    """On 16 pixels, then on none."""
    return 16 * (3 * a + a * b) + 5 * b


def parameters(a: int, b: int) -> int:
    return 4 * a + (a + 1) * b + 5 * b + 5


@pytest.mark.parametrize("target", ["macs=0.5", "macs=0.1", "macs=2k", "params=0.5", "params=0.3k", "params=0.98"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_counts_are_met_and_one_channel_more_would_not_do(target: str, ranking: str) -> None:
    model, pruner = two(ranking=ranking)
    budget = parse(target)
    count, baseline = (macs, 9120) if budget.kind == "macs" else (parameters, 773)
    assert baseline == count(16, 32) == (count_macs(model, X) if budget.kind == "macs" else count_parameters(model))
    answer = ratio_for(budget, pruner, model, X)
    cut = pruner.cut(answer.ratio)
    limit = budget.value * baseline if budget.fraction else budget.value
    assert (answer.baseline, answer.limit) == (baseline, limit)
    assert answer.cost == count(cut.a.out_channels, cut.b.out_channels) <= limit
    before = pruner.cut(answer.ratio - 1e-3)  # the search ends at a thousandth
    assert count(before.a.out_channels, before.b.out_channels) > limit


@pytest.mark.parametrize("target", ["macs=9121", "macs=0.9999", "params=1k"])
def test_a_budget_that_is_met_already_cuts_nothing_or_next_to_nothing(target: str) -> None:
    model, pruner = two()
    answer = ratio_for(parse(target), pruner, model, X)
    cut = pruner.cut(answer.ratio)
    if target == "macs=0.9999":
        assert (cut.a.out_channels, cut.b.out_channels) == (16, 31)  # 1/32 of both, rounded: one channel of b
    else:
        assert (answer.ratio, cut.a.out_channels, cut.b.out_channels) == (0.0, 16, 32)


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        (
            "macs=0.1",
            {"round_to": 8},
            "the target macs = 912 MACs cannot be reached: with every group at its narrowest it is 1448 MACs "
            "(round_to 8; 1 of 3 groups are protected)",
        ),
        (
            "params=0.1",
            {"exclude": ("b",), "round_to": 4},
            "the target params = 77 parameters cannot be reached: with every group at its narrowest it is 341 parameters "
            "(round_to 4; 2 of 3 groups are protected)",
        ),
    ],
)
def test_a_budget_out_of_reach_says_how_close_one_can_get(target: str, settings: dict[str, object], message: str) -> None:
    model, pruner = two(**settings)
    with pytest.raises(UserError) as error:
        ratio_for(parse(target), pruner, model, X)
    assert str(error.value) == message


def test_a_budget_just_within_reach_leaves_one_channel_of_each() -> None:
    model, pruner = two()
    assert ratio_for(Budget("params", 16, False), pruner, model, X).cost == parameters(1, 1) == 16
    with pytest.raises(UserError, match="it is 16 parameters"):
        ratio_for(Budget("params", 15, False), pruner, model, X)
