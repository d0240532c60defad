"""Importances of torch-pruning score our groups as they score the library's own."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn

import compress
from compress.errors import UserError
from compress.passes.prune_channels import PruneChannels
from compress.pruning.channels import ChannelPruner, Settings, prune_channels_
from compress.pruning.groups import find_groups
from compress.pruning.importances import library_scores
from compress.testing import tiny_model, tiny_task
from compress.testing.architectures import build


@pytest.mark.parametrize("name", ["ResNet", "DenseNet-style concat", "squeeze and excitation", "U-Net", "grouped convolution"])
@pytest.mark.parametrize("kind", ["GroupMagnitudeImportance", "BNScaleImportance", "LAMPImportance"])
def test_scores_are_those_of_the_librarys_groups(name: str, kind: str) -> None:
    model, inputs = build(name)
    groups = [group for group in find_groups(model, inputs) if group.fixed is None and group.width == 1]
    if kind == "BNScaleImportance":
        modules = dict(model.named_modules())
        groups = [g for g in groups if any(isinstance(modules[m.layer], torch.nn.BatchNorm2d) for m in g.members)]
    importance = getattr(torch_pruning.importance, kind)()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    graph = torch_pruning.DependencyGraph().build_dependency(model, inputs, verbose=False)
    modules = dict(model.named_modules())
    assert groups or name == "grouped convolution"
    for group, found in zip(groups, library_scores(model, groups, importance), strict=True):
        root = modules[group.name]
        theirs = graph.get_pruning_group(root, torch_pruning.prune_conv_out_channels, list(range(group.units)))
        torch.testing.assert_close(found, importance(theirs))


def test_heads_are_scored_by_the_mean_of_their_channels() -> None:
    model, inputs = build("BERT")
    group = next(g for g in find_groups(model, inputs) if g.width == 8)
    found = library_scores(model, [group], torch_pruning.importance.GroupMagnitudeImportance(p=1, normalizer=None))[0]
    attention = model.bert.encoder.layer[0].attention
    rows = [layer.weight.abs().sum(1) for layer in (attention.self.query, attention.self.key, attention.self.value)]
    rows.append(attention.output.dense.weight.abs().sum(0))
    torch.testing.assert_close(found, (torch.stack(rows).mean(0)).reshape(4, 8).mean(1).detach())


def test_gradients_are_gathered_where_an_importance_asks_for_them() -> None:
    model, task = tiny_model(), tiny_task()
    groups = [group for group in find_groups(model, task.example_inputs) if group.fixed is None]
    kind = torch_pruning.importance.GroupTaylorImportance
    found = library_scores(model, groups, kind(), task.train, limit=2)[0]
    twin = copy.deepcopy(model)
    for images, labels in list(task.train())[:2]:
        F.cross_entropy(twin(images), labels).backward()
    graph = torch_pruning.DependencyGraph().build_dependency(twin, task.example_inputs, verbose=False)
    theirs = graph.get_pruning_group(twin.stem, torch_pruning.prune_conv_out_channels, list(range(16)))
    for parameter in twin.parameters():
        parameter.grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    torch.testing.assert_close(found, kind()(theirs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["GroupMagnitudeImportance", "FPGMImportance", "GroupTaylorImportance", "GroupHessianImportance"]
)
def test_the_pass_takes_them_by_name(name: str) -> None:
    assert PruneChannels(importance=name).needs == (("train",) if "Taylor" in name or "Hessian" in name else ())
    assert compress.apply(PruneChannels(importance=name), tiny_model(), tiny_task()).stem.out_channels == 8


def test_our_l2_and_the_librarys_group_norm_cut_the_same_channels() -> None:
    one, other = tiny_model(), tiny_model()
    inputs = tiny_task().example_inputs
    prune_channels_(one, inputs, ratio=0.5)
    prune_channels_(other, inputs, ratio=0.5, criterion=torch_pruning.importance.GroupMagnitudeImportance(p=2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_an_unknown_importance_is_told() -> None:
    with pytest.raises(UserError) as error:
        PruneChannels(importance="GroupTaylorImportanc")
    assert str(error.value) == (
        "prune_channels: torch_pruning has no importance 'GroupTaylorImportanc'. Did you mean 'GroupTaylorImportance'?"
    )


def test_an_importance_that_scores_nothing_is_told() -> None:
    model, inputs = build("group norm")
    with pytest.raises(UserError) as error:
        compress.apply(PruneChannels(importance="BNScaleImportance"), model, compress.Task(inputs))
    assert str(error.value) == "prune_channels: BNScaleImportance gives no score for the group of conv1; give a criterion instead"


def state(model: nn.Module) -> list[tuple[bool, float | None]]:
    """What scoring must leave alone."""
    return [(p.requires_grad, None if p.grad is None else float(p.grad.sum())) for p in model.parameters()]


@pytest.mark.parametrize(
    "criterion",
    ["l2", "taylor", torch_pruning.importance.GroupMagnitudeImportance(), torch_pruning.importance.GroupTaylorImportance()],
)
def test_gradients_and_what_is_frozen_are_as_before(criterion: object) -> None:
    model, task = tiny_model(), tiny_task()
    images, labels = next(iter(task.train()))
    F.cross_entropy(model(images), labels).backward()
    model.stem.weight.requires_grad_(False)
    before = state(model)
    assert any(gradient is not None for _, gradient in before)
    ChannelPruner(model, task.example_inputs, Settings(criterion), task.train)
    assert state(model) == before


@pytest.mark.parametrize("kind", ["GroupTaylorImportance", "GroupHessianImportance"])
def test_a_label_out_of_range_is_told_and_nothing_is_left_behind(kind: str) -> None:
    model, task = tiny_model().requires_grad_(False), tiny_task()
    batches = [(images, torch.full_like(labels, 9)) for images, labels in task.train()]
    with pytest.raises(UserError) as error:
        prune_channels_(
            model, task.example_inputs, ratio=0.5, criterion=getattr(torch_pruning.importance, kind)(), batches=lambda: batches
        )
    assert str(error.value) == f"{kind} cannot score the channels (IndexError: Target 9 is out of bounds.)"
    assert state(model) == [(False, None)] * len(list(model.parameters()))


def test_an_importance_without_a_batch_is_told() -> None:
    task = replace(tiny_task(), train=lambda: iter(()))
    with pytest.raises(UserError) as error:
        compress.apply(PruneChannels(importance="GroupTaylorImportance"), tiny_model(), task)
    assert str(error.value) == (
        "prune_channels: the criterion GroupTaylorImportance measures on batches, and there are none; give data, or another "
        "criterion"
    )


def test_an_importance_that_fails_is_not_taken_for_a_forward_that_does() -> None:
    with pytest.raises(UserError) as error:
        compress.apply(PruneChannels(importance="OBDCImportance"), tiny_model(), tiny_task())
    assert str(error.value) == (  # it wants to be prepared by the library's own pruner
        "prune_channels: OBDCImportance cannot score the channels (KeyError: Conv2d(3, 16, kernel_size=(3, 3), stride=(1, 1), "
        "padding=(1, 1), bias=False))"
    )


def test_an_importance_of_ones_own() -> None:
    class Reverse(torch_pruning.importance.Importance):
        def __call__(self, group: torch_pruning.dependency.Group) -> torch.Tensor:
            return torch.arange(float(len(group[0].idxs)))

    model, start = tiny_model(), tiny_model()
    assert prune_channels_(model, tiny_task().example_inputs, ratio=0.5, criterion=Reverse())["stem"] == (16, 8)
    assert torch.equal(model.stem.weight, start.stem.weight[8:])


def test_under_a_global_ranking_the_librarys_scores_are_compared_as_they_are() -> None:
    """Importances have a normalizer of their own."""
    model, inputs = build("ResNet")
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=1, normalizer=None)
    pruner = ChannelPruner(model, inputs, Settings(importance, ranking="global", round_to=1, floor=0))
    groups = [group for group in pruner.groups if group.fixed is None]
    found = library_scores(model, groups, importance)
    gone = {id(group): len(units) for group, units in pruner.cuts(0.2)}
    limit = torch.cat(found).sort().values[sum(gone.values())]
    assert [gone.get(id(g), 0) for g in groups] == [int((s < limit).sum()) for g, s in zip(groups, found, strict=True)]
