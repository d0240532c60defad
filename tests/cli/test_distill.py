"""`--distill` and the flags beside it, as a recipe."""

from typing import Any

import pytest

from cli.flags import to_losses, to_recipe
from compress.errors import UserError
from compress.recipe import Recipe

HALF_AND_LABELS = {"kd": 0.9, "ce": 0.1}


def recipe(**flags: Any) -> Recipe:
    empty = {"recipe": None, "prune": None, "int8": False, "finetune": None, "no_finetune": False, "extra": (), "model": "m"}
    return to_recipe(**{**empty, **flags})


def test_after_pruning_it_takes_the_place_of_finetune() -> None:
    found = recipe(prune=0.5, int8=True, distill="resnet56", finetune=7)
    assert [name for name, _ in found.passes] == ["prune_channels", "reestimate_bn", "distill", "int8"]
    assert dict(found.passes)["distill"] == {"teacher": "resnet56", "epochs": 7}
    assert found.implied == ("reestimate_bn",)


def test_without_pruning_a_student_learns_from_another_network() -> None:
    found = recipe(distill="resnet56", teacher_weights="t.pth", control=True, distill_loss="dkd", retry=True)
    options = {"teacher": "resnet56", "teacher_weights": "t.pth", "control": True, "losses": {"ce": 1.0, "dkd": 1.0}}
    assert found.passes == (("distill", {**options, "retry": True}),)
    assert found.make_passes()[0].losses == {"ce": 1.0, "dkd": 1.0}


def test_it_comes_after_each_step_of_pruning() -> None:
    found = recipe(prune=0.5, prune_steps=2, distill="original")
    assert [name for name, _ in found.passes] == ["prune_channels", "reestimate_bn", "distill"] * 2


def test_options_can_be_added() -> None:
    found = recipe(distill="original", extra=("distill:pairs=layer1=layer1,layer2=layer3", "distill:lr=0.1"))
    made = found.make_passes()[0]
    assert (made.pairs, made.lr) == ({"layer1": "layer1", "layer2": "layer3"}, 0.1)


def test_a_models_own_epochs_hold_for_both_ways_to_recover() -> None:
    found = recipe(prune=0.5, distill="original").with_defaults({"finetune": {"epochs": 9}})
    assert dict(found.passes)["distill"]["epochs"] == 9


@pytest.mark.parametrize(
    ("text", "losses"),
    [
        ("kd", HALF_AND_LABELS),
        ("ce", {"ce": 1.0}),
        ("dkd", {"ce": 1.0, "dkd": 1.0}),
        ("hint", {**HALF_AND_LABELS, "hint": 30.0}),
        ("hint=5", {"hint": 5.0}),
        ("kd=1,hint=5", {"kd": 1.0, "hint": 5.0}),
        ("kd=1,hint", {"ce": 0.1, "kd": 1.0, "hint": 30.0}),
        ("at,hint=2", {**HALF_AND_LABELS, "at": 20.0, "hint": 2.0}),
    ],
)
def test_losses_by_name_and_by_weight(text: str, losses: dict[str, float]) -> None:
    assert to_losses(text) == losses


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"distill_loss": "kd"}, "--distill-loss needs --distill TEACHER; the run's own model is --distill original"),
        ({"control": True}, "--control needs --distill TEACHER; the run's own model is --distill original"),
        ({"distill": "original", "no_finetune": True}, "--distill and --no-finetune contradict each other"),
        ({"distill": "original", "distill_loss": "kdd"}, "unknown loss 'kdd'. Did you mean 'kd'?"),
        (
            {"distill": "original", "distill_loss": "kd=much"},
            "--distill-loss takes LOSS or LOSS=WEIGHT, such as kd=0.9,ce=0.1, got 'kd=much'",
        ),
        ({"int8": True, "retry": True}, "--retry needs something that trains: --finetune, --distill or --qat"),
        (
            {"distill": "original", "extra": ("distill:pairs=layer1",)},
            "distill: pairs must map texts to texts, such as layer1=layer1,layer2=layer3, got 'layer1'",
        ),
    ],
)
def test_what_cannot_work_is_told(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(**flags).make_passes()
    assert str(error.value) == told
