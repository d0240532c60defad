"""Flags as the passes of a recipe."""

from pathlib import Path

from cli.flags import to_recipe


def test_flags_and_recipe_are_the_same_data() -> None:
    given = {"model": "m", "weights": None, "data": None, "seed": None, "limit_train": None, "limit_eval": None, "fp16": False}
    recipe = to_recipe(
        recipe=None,
        prune=0.5,
        int8=True,
        finetune=None,
        no_finetune=False,
        extra=("finetune:lr=0.1", "int8:exclude=a,b"),
        **given,
    )
    assert recipe.passes == (
        ("prune_channels", {"ratio": 0.5}),
        ("reestimate_bn", {"allow_noop": True}),
        ("finetune", {"lr": "0.1"}),
        ("int8", {"exclude": "a,b"}),
    )
    assert recipe.implied == ("reestimate_bn", "finetune")


def test_finetuning_alone_has_no_teacher() -> None:
    recipe = to_recipe(recipe=None, prune=None, int8=False, finetune=3, no_finetune=False, extra=(), model="m")
    assert recipe.passes == (("finetune", {"epochs": 3, "distill": False}),)


def test_steps_of_pruning_add_up() -> None:
    recipe = to_recipe(
        recipe=None, prune=0.5, prune_steps=2, int8=True, finetune=None, no_finetune=False, extra=(), model="resnet18"
    )
    names = [name for name, _ in recipe.passes]
    assert names == ["prune_channels", "reestimate_bn", "finetune"] * 2 + ["int8"]
    ratios = [options["ratio"] for name, options in recipe.passes if name == "prune_channels"]
    assert ratios == [0.292893, 0.5]  # of the original's channels; (1 - 0.292893)^2 is a half
    assert [options.get("allow_noop", False) for name, options in recipe.passes if name == "prune_channels"] == [True, False]
    recipe = to_recipe(
        recipe=None, prune=None, prune_target="macs=0.25", prune_steps=2, int8=False, finetune=None, no_finetune=True, extra=()
    )
    assert [options["target"] for name, options in recipe.passes if name == "prune_channels"] == ["macs=0.5", "macs=0.25"]


def test_a_plan_file_becomes_ratios(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("layer4.*: 0.5\n")
    recipe = to_recipe(
        recipe=None, prune=None, prune_plan=str(tmp_path / "plan.yaml"), int8=False, finetune=None, no_finetune=True, extra=()
    )
    assert recipe.passes[0] == ("prune_channels", {"ratio": 0.0, "ratios": {"layer4.*": 0.5}})
