"""`--max-drop` and `--time-budget`: what they ask of the pass int8, and what they are refused."""

import pytest

from cli.flags import to_recipe, to_seconds
from compress.errors import UserError
from compress.recipe import Recipe


def recipe(**flags: object) -> Recipe:
    given = {
        "recipe": None,
        "prune": None,
        "int8": False,
        "finetune": None,
        "no_finetune": False,
        "extra": (),
        "model": "resnet18",
    }
    return to_recipe(**{**given, **flags})


def test_the_flags_are_options_of_int8() -> None:
    assert recipe(int8=True, max_drop=0.5, time_budget="10m").passes == (("int8", {"max_drop": 0.5, "time_budget": 600.0}),)
    assert recipe(int8=True, max_drop=0.0).passes == (("int8", {"max_drop": 0.0}),)
    named = recipe(extra=("int8:ranges=minmax",), max_drop=1.0)
    assert named.passes == (("int8", {"ranges": "minmax", "max_drop": 1.0}),)
    assert named.make_passes()[0].needs == ("calibration", "validate")


def test_times() -> None:
    assert [to_seconds(text) for text in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_drop": 0.5, "prune": 0.5}, "--max-drop needs --int8: it says how many points of the score integers may cost"),
        ({"max_drop": 0.5, "qat": 2}, "--max-drop needs --int8: it says how many points of the score integers may cost"),
        (
            {"int8": True, "time_budget": "9"},
            "--time-budget needs --max-drop: it is the time to search for what keeps to that",
        ),
        (
            {"int8": True, "max_drop": 1.0, "time_budget": "soon"},
            "--time-budget takes seconds, or minutes or hours such as 10m or 1h, got 'soon'",
        ),
        (
            {"int8": True, "max_drop": 1.0, "time_budget": "0m"},
            "--time-budget takes seconds, or minutes or hours such as 10m or 1h, got '0m'",
        ),
        (
            {"recipe": "a.yaml", "max_drop": 0.0},
            "--recipe already says which passes run; --max-drop cannot be added to it: edit the file instead",
        ),
    ],
)
def test_mistakes_are_told(flags: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(**flags)
    assert str(error.value) == message
