"""The options of prune_channels: what they take, as values and as the texts of flags, and what a wrong one is told."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

import compress
from cli.flags import to_recipe
from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.models.cifar_resnet import CifarResNet
from compress.passes.prune_channels import PruneChannels
from compress.pipeline import check, transformed
from compress.pruning.channels import changed_widths, widths
from compress.recipe import make_pass
from compress.task import Task
from compress.testing import tiny_model, tiny_task

RATIOS = "prune_channels: ratios must map texts to numbers, such as layer1.*=0.3, got "


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0}, "prune_channels: ratio must be in (0, 1), got 0"),
        ({"ratio": "1"}, "prune_channels: ratio must be in (0, 1), got 1"),
        ({"ratio": -0.5}, "prune_channels: ratio must be in (0, 1), got -0.5"),
        ({"ratio": "nan"}, "prune_channels: ratio must be in (0, 1), got nan"),
        ({"ratio": "half"}, "prune_channels: ratio must be a number, got 'half'"),
        ({"ratio": 1.5, "ratios": "stem=0.3"}, "prune_channels: ratio must be in [0, 1], got 1.5"),
        ({"ratios": "stem=1.5"}, "prune_channels: the ratio of 'stem' must be in [0, 1], got 1.5"),
        ({"ratios": "stem=0.5,body=-1"}, "prune_channels: the ratio of 'body' must be in [0, 1], got -1"),
        ({"ratios": "stem=nan"}, "prune_channels: the ratio of 'stem' must be in [0, 1], got nan"),
        ({"ratios": "stem"}, f"{RATIOS}'stem'"),
        ({"ratios": ""}, f"{RATIOS}''"),
        ({"ratios": "0.5"}, f"{RATIOS}'0.5'"),
        ({"ratios": "=0.5"}, f"{RATIOS}'=0.5'"),
        ({"ratios": "stem=half"}, f"{RATIOS}'stem=half'"),
        ({"ratios": "stem=0.3,"}, f"{RATIOS}'stem=0.3,'"),
        ({"ratios": {"stem": True}}, f"{RATIOS}{{'stem': True}}"),
        ({"ratios": {1: 0.3}}, f"{RATIOS}{{1: 0.3}}"),
        ({"ratios": [0.3]}, f"{RATIOS}[0.3]"),
        ({"floor": 1.1}, "prune_channels: floor must be in [0, 1], got 1.1"),
        ({"floor": "-0.1"}, "prune_channels: floor must be in [0, 1], got -0.1"),
        ({"round_to": 0}, "prune_channels: round_to must be at least 1, got 0"),
        ({"round_to": 1.5}, "prune_channels: round_to must be a whole number, got 1.5"),
        ({"threads": "0"}, "prune_channels: threads must be at least 1, got 0"),
        ({"exclude": 3}, "prune_channels: exclude must be a list of texts, got 3"),
        ({"ranking": "all"}, "prune_channels: ranking must be one of local, global, isomorphic, got 'all'"),
        (
            {"criterion": "l3"},
            "prune_channels: criterion must be one of l2, l1, fpgm, bn_scale, lamp, taylor, obd, activation, apoz, elastic_net, "
            "nuclear, random, got 'l3'",
        ),
        (
            {"target": "flops=0.5"},
            "prune_channels: target must be macs, params, size or latency, got 'flops=0.5'. Known: macs, params, size, latency.",
        ),
        (
            {"target": "size=5"},
            "prune_channels: target must be a fraction of the baseline in (0, 1), such as size=0.5, or size=3b or size=3kb or "
            "size=3mb; got 'size=5'",
        ),
        ({"rato": 0.5}, "prune_channels has no option 'rato'. Did you mean 'ratio'?"),
    ],
)
def test_what_a_wrong_option_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        make_pass("prune_channels", options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ratios": "layer1.*=0.3,layer2.0=0.5"}, {"ratios": {"layer1.*": 0.3, "layer2.0": 0.5}}),
        ({"ratios": "layer1.* = 0.3, fc=0"}, {"ratios": {"layer1.*": 0.3, "fc": 0.0}}),
        ({"ratios": "a=b=0.3"}, {"ratios": {"a=b": 0.3}}),
        ({"ratios": {"fc": 1}}, {"ratios": {"fc": 1.0}}),
        ({"ratio": "0", "ratios": "fc=0.5"}, {"ratio": 0.0, "ratios": {"fc": 0.5}}),  # that layer alone
        ({"target": "none"}, {"target": None}),
        ({"target": "macs=0.5"}, {"target": "macs=0.5"}),
        ({"exclude": "a.*,b"}, {"exclude": ("a.*", "b")}),
        ({"floor": "0"}, {"floor": 0.0}),
    ],
)
def test_texts_of_flags_become_values(options: dict[str, Any], expected: dict[str, Any]) -> None:
    made = make_pass("prune_channels", options)
    assert {name: getattr(made, name) for name in expected} == expected


@pytest.fixture(scope="module")
def start() -> Artifact:
    return Artifact.start(tiny_model(), tiny_task())


def pruned(start: Artifact, **options: Any) -> tuple[dict[str, int], list[str]]:
    """Widths of the layers, and the notes, after pruning a copy."""
    artifact = replace(start, model=copy.deepcopy(start.model), notes=[])
    model = make_pass("prune_channels", options).apply(artifact)
    return widths(model), artifact.notes


TRAIN = (
    "prune_channels needs train data, and the task has none; give Task(train=...), or --data with training images; "
    "recovery after --prune can be left out with --no-finetune"
)
CALIBRATION = (
    "prune_channels needs calibration data, and the task has none; give Task(calibration=...), or --data with a data set"
)
MEASURING = [("taylor", TRAIN), ("obd", TRAIN), ("activation", CALIBRATION), ("apoz", CALIBRATION)]


@pytest.mark.parametrize(("criterion", "message"), MEASURING)
def test_criteria_that_measure_need_data(criterion: str, message: str, start: Artifact) -> None:
    with pytest.raises(UserError) as error:
        check([PruneChannels(criterion=criterion)], Task(tiny_task().example_inputs))
    assert str(error.value) == message
    check([PruneChannels(criterion=criterion)], tiny_task())
    assert pruned(start, criterion=criterion)[0] == {"stem": 8, "body": 8, "head": 4}


def test_criteria_that_look_at_weights_need_none() -> None:
    others = ("l1", "l2", "fpgm", "bn_scale", "lamp", "elastic_net", "nuclear", "random")
    check([PruneChannels(criterion=name) for name in others], Task((torch.ones(1),)))
    assert {name: PruneChannels(criterion=name).needs for name in others} == dict.fromkeys(others, ())


def test_ratios_of_their_own_reach_the_layers(start: Artifact) -> None:
    found, _ = pruned(start, ratio="0", ratios="st*=0.25", round_to="2")
    assert found == {"stem": 12, "body": 12, "head": 4}  # they are added


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"round_to": 16}, "prune_channels could remove nothing at ratio 0.5; 1 groups are too narrow for round_to 16; "),
        ({"exclude": "stem"}, "prune_channels could remove nothing at ratio 0.5; "),
        ({"target": "params=1M"}, "prune_channels: the model already is within the target params=1M; "),
    ],
)
def test_nothing_removed_is_no_success(options: dict[str, Any], message: str, start: Artifact) -> None:
    excluded = "stem: excluded by 'stem'; " if "exclude" in options else ""
    with pytest.raises(PassError) as error:
        pruned(start, **options)
    assert str(error.value) == f"{message}the model from before stands; protected are {excluded}head: an output of the model"
    assert pruned(start, allow_noop=True, **options)[0] == {"stem": 16, "body": 16, "head": 4}


def test_a_target_out_of_reach_stops_the_pass(start: Artifact) -> None:
    with pytest.raises(UserError) as error:
        pruned(start, target="params=0.1")
    # With n channels: 27 n and 2 n, 9 n^2 and 2 n, 4 n + 4; 2868 with 16 of them.
    assert str(error.value) == (
        "the target params = 287 parameters cannot be reached: with every group at its narrowest it is 860 parameters "
        "(round_to 8; 1 of 2 groups are protected)"
    )


def test_a_target_is_met_and_noted(start: Artifact) -> None:
    found, notes = pruned(start, target="macs=0.5", round_to=1)
    # With n channels on 256 pixels: 256 (27 n + 9 n^2) and 4 n; 354860 with 11 of them, and 299560 with 10.
    assert found == {"stem": 10, "body": 10, "head": 4}
    ratio = notes[0].partition("; ratio ")[2].partition(",")[0]
    assert notes == [
        f"target macs=0.5: 0.2996 MMACs of 0.7005 MMACs (0.428); ratio {ratio}, rounded group by group",
        "2 layers narrowed: stem 16->10, body 16->10",
        "protected: head (an output of the model)",
    ]
    assert 5.5 / 16 <= float(ratio) < 5.5 / 16 + 2e-3  # 10.5 channels are half way, and the smaller number is taken


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": ("boddy",)}, "prune_channels: exclude: no layer is called 'boddy'. Did you mean 'body'?"),
        ({"exclude": ("stem", "layer9.*")}, "prune_channels: exclude: no layer is called 'layer9.*'."),
        ({"ratios": {"boddy": 0.5}}, "prune_channels: ratios: no layer is called 'boddy'. Did you mean 'body'?"),
    ],
)
def test_a_pattern_that_matches_nothing_is_told(options: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        compress.apply(PruneChannels(**options), tiny_model(), tiny_task())
    assert str(error.value) == message


def test_a_target_is_met_more_closely_than_by_cutting_all_groups_at_once() -> None:
    from compress.models.resnet import resnet18

    model, x = resnet18(), torch.randn(2, 3, 32, 32)
    before = sum(p.numel() for p in model.parameters())
    for target in (0.4, 0.6):
        cut = compress.apply(PruneChannels(target=f"params={target}"), model, compress.Task((x,)))
        assert 0.97 * target < sum(p.numel() for p in cut.parameters()) / before <= target


@pytest.mark.parametrize("steps", [2, 3, 5, 8])
def test_steps_end_at_the_widths_of_one_cut(steps: int) -> None:
    """Each step rounds; shares of the original's widths keep that from adding up."""
    model, task = CifarResNet(8, 10).eval(), compress.Task((torch.randn(2, 3, 32, 32),))
    at_once = compress.apply(PruneChannels(ratio=0.5), model, task)
    recipe = to_recipe(recipe=None, prune=0.5, prune_steps=steps, int8=False, finetune=None, no_finetune=True, extra=())
    artifact = Artifact.start(model, task)
    for pass_ in recipe.make_passes():
        if pass_.name == "prune_channels":
            artifact = transformed(pass_, artifact, 0, torch.device("cpu"))
    assert widths(artifact.model) == widths(at_once)


def test_steps_that_remove_nothing_at_all_are_an_error() -> None:
    artifact = Artifact.start(tiny_model(), tiny_task())
    with pytest.raises(PassError) as error:
        transformed(PruneChannels(ratio=0.1, cumulative=True), artifact, 0, torch.device("cpu"))
    assert str(error.value).startswith("prune_channels could remove nothing at ratio 0.1; 1 groups are too narrow for round_to 8")


def test_a_module_s_name_leaves_alone_what_is_inside_it() -> None:
    task = compress.Task((torch.randn(2, 3, 32, 32),))
    cut = compress.apply(PruneChannels(exclude=("layer3",)), CifarResNet(8, 10), task)
    assert not {name for name in changed_widths(widths(CifarResNet(8, 10)), widths(cut)) if name.startswith("layer3")}
    assert cut.layer1[0].conv1.out_channels == 8


def test_the_run_s_seed_and_threads_are_those_of_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = CifarResNet(8, 10).eval(), compress.Task((torch.randn(2, 3, 32, 32),))
    cut = [compress.apply(PruneChannels(criterion="random"), model, task, seed=seed).layer2[0].conv1.weight for seed in (1, 1, 2)]
    assert torch.equal(cut[0], cut[1])
    assert not torch.equal(cut[0], cut[2])
    fixed = [
        compress.apply(PruneChannels(criterion="random", seed=5), model, task, seed=seed).layer2[0].conv1.weight
        for seed in (1, 2)
    ]
    assert torch.equal(*fixed)
    asked = []

    def threads_of(*args: object, threads: int) -> None:
        asked.append(threads)
        raise UserError("enough")

    monkeypatch.setattr("compress.budgets.ratio_for", threads_of)
    for own, run in ((None, 3), (2, 3)):
        with pytest.raises(UserError):
            PruneChannels(target="latency=0.5", threads=own).apply(replace(Artifact.start(model, task), threads=run))
    assert asked == [3, 2]
