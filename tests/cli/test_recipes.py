"""`compress recipes`, `--recipe NAME`, and what is told about mappings in flags."""

import dataclasses
import json
from pathlib import Path

import pytest
from command_line import in_process

from cli.flags import to_losses, to_recipe
from compress.errors import UserError
from compress.recipe import Recipe, make_pass, read
from compress.recipe_schema import recipe_schema
from compress.recipes import FOLDER, heading, names


def test_list_says_aim_and_needs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = in_process(capsys, "recipes", "list")[1].splitlines()
    assert lines[::3] == names()
    assert lines[1:3] == [f"  aim:   {heading('cpu-int8', 'Aim')}", f"  needs: {heading('cpu-int8', 'Needs')}"]
    assert len(lines) == 3 * len(names())


@pytest.mark.parametrize("name", names())
def test_show_gives_the_file_as_it_is(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, shown, _ = in_process(capsys, "recipes", "show", name)
    assert (code, shown) == (0, (FOLDER / f"{name}.yaml").read_text())
    (tmp_path / "my.yaml").write_text(shown)
    assert read(tmp_path / "my.yaml") == read(name)


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(capsys, "recipes", "show", "tinny") == (2, "", "error: unknown recipe 'tinny'. Did you mean 'tiny'?\n")
    told = "error: 'cpu-int' is neither a recipe nor a file. Did you mean 'cpu-int8'?\n"
    assert in_process(capsys, "run", "resnet18", "--recipe", "cpu-int") == (2, "", told)


def test_schema_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(in_process(capsys, "recipes", "schema")[1]) == recipe_schema()


def test_a_run_takes_a_name_and_flags_go_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Recipe] = []

    def start(recipe: Recipe, *others: object) -> None:
        started.append(recipe)
        raise UserError("enough")

    monkeypatch.setattr("compress.launch.run_on_processes", start)
    for name in ("cpu-int8", "paper-depgraph-resnet56"):
        assert in_process(capsys, "run", "resnet20", "--recipe", name, "--seed", "3", "--data", "npz:x") == (
            2,
            "",
            "error: enough\n",
        )
        assert started[-1] == dataclasses.replace(read(name), model="resnet20", seed=3, data="npz:x")
    in_process(capsys, "run", "--recipe", "paper-depgraph-resnet56")
    assert started[-1].model == "resnet56"


def test_no_flag_for_passes_goes_with_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, told = in_process(capsys, "run", "resnet18", "--recipe", "tiny", "--int8")
    line = "error: --recipe already says which passes run; --int8 cannot be added to it: edit the file instead\n"
    assert (code, told) == (2, line)


USAGE = "--distill-loss takes LOSS or LOSS=WEIGHT, such as kd=0.9,ce=0.1, got "


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kd,,ce", f"{USAGE}'kd,,ce'"),
        ("", f"{USAGE}''"),
        ("kd,", f"{USAGE}'kd,'"),
        ("=1", f"{USAGE}'=1'"),
        ("kd=1,kd=2", "--distill-loss has 'kd' twice, got 'kd=1,kd=2'; leave one out"),
        ("hint,hint=3", "--distill-loss has 'hint' twice, got 'hint,hint=3'; leave one out"),
    ],
)
def test_losses_that_cannot_be_meant(text: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        to_losses(text)
    assert str(error.value) == told


def test_spaces_around_losses() -> None:
    assert to_losses("kd = 0.9, ce=0.1") == {"kd": 0.9, "ce": 0.1}


def by_pass(text: str) -> Recipe:
    nothing = {"recipe": None, "prune": None, "int8": False, "finetune": None, "no_finetune": False, "model": "m"}
    return to_recipe(**nothing, extra=(text,))


def test_losses_of_a_pass() -> None:
    assert by_pass("distill:losses=kd=0.9,ce=0.1").make_passes()[0].losses == {"kd": 0.9, "ce": 0.1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("distill:losses=kd,ce", "distill: losses must map texts to numbers, such as kd=0.9,ce=0.1, got 'kd,ce'"),
        ("distill:losses=kd=1,,ce=1", "distill: losses must map texts to numbers, such as kd=0.9,ce=0.1, got 'kd=1,,ce=1'"),
        ("distill:losses=kd=1,kd=2", "distill: losses has 'kd' twice; leave one out"),
        ("distill:pairs=a=b,a=c", "distill: pairs has 'a' twice; leave one out"),
        ("prune_channels:ratios=fc", "prune_channels: ratios must map texts to numbers, such as layer1.*=0.3, got 'fc'"),
    ],
)
def test_mappings_that_cannot_be_meant(text: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        by_pass(text).make_passes()
    assert str(error.value) == told


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("passes:\n- int8:\n    ranges: mse\n    ranges: auto\n")
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value) == f"{path}, line 4: 'ranges' is there twice"
    # Not one that a merge brings along, and the file then changes.
    path.write_text("passes:\n- int8: &mine {ranges: mse, smooth: 0.5}\n- int8:\n    <<: *mine\n    ranges: auto\n")
    assert [options["ranges"] for _, options in read(path).passes] == ["mse", "auto"]


def test_an_option_that_cannot_be_none() -> None:
    with pytest.raises(UserError) as error:
        make_pass("distill", {"teacher": None})
    assert str(error.value) == "distill: teacher must be text, got None"
