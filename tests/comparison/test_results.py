"""Which folders are runs, what they are called, and what is said of the others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from compress.comparison.results import read_results
from compress.errors import UserError
from compress.run import Run

Made = Callable[..., Path]


def refused(*runs: object) -> str:
    with pytest.raises(UserError) as error:
        read_results(list(runs))
    return str(error.value)


def test_a_run_is_called_by_its_folder_and_two_of_one_name_by_their_paths(made: Made) -> None:
    first, second, third = made("x/a"), made("y/a"), made("b")
    assert [result.name for result in read_results([first, second, third])] == [str(first), str(second), "b"]
    in_memory = Run(nn.Identity(), json.loads((third / "report.json").read_text()), None)
    assert [result.name for result in read_results([first, in_memory])] == ["a", "run 2"]
    assert [result.name for result in read_results({"ours": first, "theirs": in_memory})] == ["ours", "theirs"]
    assert [result.name for result in read_results(str(third))] == ["b"]


def test_what_the_report_does_not_hold_comes_from_the_recipe(made: Made) -> None:
    folder = made("a", weights="w.pt", limit_train=64)
    kept = Run(nn.Identity(), json.loads((folder / "report.json").read_text()), folder)
    for run in (folder, kept):
        result = read_results([run])[0]
        assert (result.weights, result.training) == ("w.pt", "64 training samples")
    assert read_results([made("b")])[0].training == "all training samples"
    unknown = [Run(nn.Identity(), kept.report, None)]
    for broken in ("- [", "7"):
        (folder / "recipe.yaml").write_text(broken)
        unknown.append(Run(nn.Identity(), kept.report, folder))
    assert {(result.weights, result.training) for run in unknown for result in read_results([run])} == {
        (None, "unknown training samples")
    }


def test_a_folder_without_a_finished_run_is_named(made: Made, tmp_path: Path) -> None:
    good = made("good")
    assert refused() == "there are no runs to compare; give folders of runs"
    assert refused(good, tmp_path / "none") == f"no such folder: {tmp_path}/none"
    assert refused(good, good / "report.json") == f"{good}/report.json is a file; give the folder of a run"
    assert refused(good, f"{good}/../good") == f"{good}/../good was given twice"
    assert refused(tmp_path) == f"{tmp_path} holds no run; give the runs inside it, such as {good}"
    (tmp_path / "empty").mkdir()
    assert refused(good, tmp_path / "empty") == f"{tmp_path}/empty holds no run"
    (tmp_path / "killed" / ".stages").mkdir(parents=True)
    assert refused(good, tmp_path / "killed") == (
        f"{tmp_path}/killed: the run there has not finished; continue it with --resume --out {tmp_path}/killed"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "FILE is not a report of this package: it has no version"),
        ('{"version": "1"}', "FILE is not a report of this package: it has no version"),
        ('{"version": 0}', "FILE has version 0, this package reads 1; repeat the run with --force"),
        ('{"version": 2}', "FILE has version 2, this package reads 1; upgrade compress-toolkit"),
        ('{"version": 1}', "FILE is not a report of this package: it has no model"),
        ('{"version', "FILE cannot be read: Unterminated string starting at: line 1 column 2 (char 1)"),
    ],
)
def test_a_report_of_another_kind_is_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    assert refused(tmp_path) == message.replace("FILE", f"{tmp_path}/report.json")
