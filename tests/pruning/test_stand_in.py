"""Where a criterion sees nothing in a group, l2 scores it instead, and a note says so."""

import copy

import pytest
import torch
from pruning.networks import free_groups
from torch import nn

import compress
from compress.artifact import Artifact
from compress.passes.prune_channels import PruneChannels
from compress.pruning.channels import ChannelPruner, Settings
from compress.pruning.criteria import CRITERIA
from compress.pruning.evidence import scores
from compress.testing.architectures import build

UNSEEN = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Flatten(), nn.Linear(32, 3)).eval()


@pytest.mark.parametrize("name", ["activation", "apoz", "bn_scale"])
def test_where_a_criterion_sees_nothing_the_l2_score_stands_in_and_a_note_says_so(name: str) -> None:
    x = torch.randn(2, 3, 2, 2)
    groups = [group for group in free_groups(UNSEEN, x) if group.name == "0"]
    [found], notes = scores(UNSEEN, groups, CRITERIA[name], lambda: [(x,)])
    [expected], none = scores(UNSEEN, groups, CRITERIA["l2"], None)
    assert torch.allclose(found / found.mean(), expected / expected.mean())
    assert notes == [f"scored by l2 instead, since {name} finds nothing to go by in: 0"]
    assert none == []


def test_a_criterion_that_is_the_same_for_all_channels_removes_no_last_half() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GELU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).eval()
    x = torch.randn(2, 3, 2, 2)
    groups = free_groups(model, x)
    found, notes = scores(model, groups, CRITERIA["apoz"], lambda: [(x,)])
    expected, _ = scores(model, groups, CRITERIA["l2"], None)
    assert torch.equal(found[0], expected[0])  # GELU gives no zeros
    assert torch.allclose(found[1], 1 - (model[:4](x) == 0).float().mean((0, 2, 3)))
    assert notes == ["scored by l2 instead, since apoz finds the same for all channels of: 0"]


def test_a_stand_in_for_scores_that_are_comparable_is_as_large_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(32, 3)).eval()
    nn.init.uniform_(model[1].weight, 4, 6)
    found, _ = scores(model, free_groups(model, torch.randn(2, 3, 2, 2)), CRITERIA["bn_scale"], None)
    assert torch.equal(found[0], model[1].weight.detach())
    assert float(found[1].mean()) == pytest.approx(float(found[0].mean()))


def test_run_and_plan_note_what_l2_scored_instead() -> None:
    task = compress.Task((torch.randn(2, 3, 2, 2),), calibration=lambda: [(torch.randn(2, 3, 2, 2),)])
    pruning = PruneChannels(criterion="activation", round_to=1)
    artifact = Artifact.start(copy.deepcopy(UNSEEN), task)
    pruning.apply(artifact)
    expected = "scored by l2 instead, since activation finds nothing to go by in: 0"
    assert artifact.notes[0] == compress.plan(copy.deepcopy(UNSEEN), task, pruning).notes[0] == expected
    assert sum(note.startswith("scored by") for note in artifact.notes) == 1


def test_every_group_of_gpt2_is_seen() -> None:
    model, inputs = build("GPT-2")
    assert ChannelPruner(model, inputs, Settings("activation"), lambda: [inputs]).notes == []
