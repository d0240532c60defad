"""Scoring needs its batches and its seed, and leaves the model as it was."""

import copy
from collections.abc import Callable

import pytest
import torch
from pruning.networks import free_groups
from torch import Tensor, nn

from compress.errors import UserError
from compress.pruning.channels import prune_channels_
from compress.pruning.criteria import CRITERIA
from compress.pruning.evidence import scores


@pytest.mark.parametrize("name", ["taylor", "obd", "activation", "apoz"])
@pytest.mark.parametrize("batches", [None, list])
def test_without_a_batch_nothing_is_measured(name: str, batches: Callable[[], list] | None, residual: nn.Module) -> None:
    groups = free_groups(residual, torch.randn(2, 3, 6, 6))
    with pytest.raises(UserError) as error:
        scores(residual, groups, CRITERIA[name], batches)
    assert str(error.value) == f"the criterion {name} measures on batches, and there are none; give data, or another criterion"


@pytest.mark.parametrize("criterion", ["l2", "taylor", "activation", "nuclear"])
def test_scoring_leaves_the_model_as_it_was(criterion: str, residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    residual.train().a.eval()
    residual.a.weight.requires_grad_(False)
    residual.head.bias.requires_grad_(False)
    residual.head.weight.grad = torch.ones(3, 4)
    groups = free_groups(residual.eval(), batches[0][0])
    residual.train().a.eval()
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    used = batches if CRITERIA[criterion].measures == "gradients" else [batch[:1] for batch in batches]
    scores(residual, groups, CRITERIA[criterion], lambda: used)
    assert {name for name, parameter in residual.named_parameters() if not parameter.requires_grad} == {"a.weight", "head.bias"}
    assert {name for name, parameter in residual.named_parameters() if parameter.grad is not None} == {"head.weight"}
    assert {name for name, module in residual.named_modules() if not module.training} == {"a"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in residual.modules())


def test_requires_grad_comes_back_even_after_an_error(residual: nn.Module, images: Tensor) -> None:
    residual.requires_grad_(False)
    groups = free_groups(residual, images)
    with pytest.raises(IndexError):
        scores(residual, groups, CRITERIA["taylor"], lambda: [(images, torch.full((8,), 9))])  # of three classes
    assert not any(parameter.requires_grad for parameter in residual.parameters())


def test_the_seed_draws_the_random_scores(residual: nn.Module, images: Tensor) -> None:
    groups = free_groups(residual, images)
    one, same, other = (scores(residual, groups, CRITERIA["random"], None, seed=seed)[0][0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    cut = [prune_channels_(copy.deepcopy(residual), (images,), ratio=0.5, round_to=1, criterion="random") for _ in range(2)]
    assert cut[0] == cut[1]
    networks = [copy.deepcopy(residual) for _ in range(8)]
    for seed, network in enumerate(networks):
        prune_channels_(network, (images,), ratio=0.5, round_to=1, criterion="random", seed=seed)
    assert len({tuple(network.norm.weight.tolist()) for network in networks}) > 1
