"""`compress compare` on runs that were really made."""

import csv
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cli.main import main
from compress.recipe import Recipe
from compress.run import Options, run_recipe

ROOT = Path(__file__).parent.parent.parent
QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}
MINE = """
from compress.testing import tiny_model, tiny_task
def net():
    return tiny_model(), tiny_task()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one recipe, and another recipe."""
    here = tmp_path_factory.mktemp("compare")
    (here / "mine.py").write_text(MINE)
    pruned = (("prune_channels", {"ratio": 0.5, "round_to": 4}), ("finetune", {"epochs": 1}))
    for name, steps, seed in (("a", pruned, 0), ("b", pruned, 1), ("c", pruned[:1], 0)):
        run_recipe(Recipe(model=f"{here}/mine.py:net", passes=steps, seed=seed), Options(out=here / name, timing=QUICK))
    return here


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    disabled = logging.root.manager.disable  # the command line silences libraries for its whole process, which here is ours
    capsys.readouterr()
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments])
    logging.disable(disabled)
    streams = capsys.readouterr()
    return int(stopped.value.code or 0), streams.out, streams.err


def test_a_table_with_a_row_for_each_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = compare(capsys, "a", "b", "c")
    assert (code, error) == (0, "")
    lines = out.splitlines()
    header = ["run", "n", "accuracy %", "ms p50", "p90", "size MB", "params M", "MMACs", "seconds", "faster", "smaller"]
    assert lines[0].split() == " ".join(header).split()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["baseline", "a, b", "c"]
    assert lines[4:6] == ["a, b: prune_channels > finetune; seeds 0, 1", "c: prune_channels; seed 0"]


def test_a_narrow_terminal_costs_no_digit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "60")
    wide = compare(capsys, "a", "b")[1].splitlines()
    assert "\u2026" not in wide[0] and wide[1].split()[0] == "baseline"


def test_other_formats_print_themselves_and_nothing_else(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, error = compare(capsys, "a", "c", "--stages", "--format", "csv")
    assert (code, error) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["run"], row["stage"]) for row in rows] == [
        ("baseline", "baseline"),
        ("a", "prune_channels"),
        ("a", "finetune"),
        ("c", "prune_channels"),
    ]
    report = json.loads((folder / "a" / "report.json").read_text())
    assert float(rows[2]["accuracy_percent"]) == pytest.approx(100 * report["stages"][2]["accuracy"], abs=1e-5)
    assert compare(capsys, "a", "--format", "md")[1].startswith("| run | accuracy % |")
    with_plot = compare(capsys, "a", "--format", "json", "--plot", "it.png")
    (folder / "it.png").unlink()
    assert json.loads(with_plot[1])["rows"][1]["run"] == "a"


def test_a_terminal_of_ascii_letters(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    for form in ("table", "md"):
        command = [sys.executable, "-m", "cli", "compare", "a", "b", "--format", form]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()
        assert "mean +- sample standard deviation" in done.stdout


def test_the_picture(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert compare(capsys, "a", "c", "--plot", "it.svg")[1].splitlines()[-1] == "note: the picture is in it.svg"
    assert (folder / "it.svg").read_text().startswith("<?xml")
    assert compare(capsys, "none", "--plot", "it.jpg") == (
        2,
        "",
        "error: a picture's name ends in .png, .svg or .pdf, got it.jpg\n",
    )
    assert compare(capsys, "a", "--plot", "no/it.png") == (2, "", "error: no/it.png cannot be written: there is no folder no\n")


def test_it_needs_no_pandas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert compare(capsys, "a", "--format", "html")[0] == 0


def test_a_name_that_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    shutil.copytree(folder / "c", folder / "[red]c")
    lines = compare(capsys, "[red]c")[1].splitlines()
    shutil.rmtree(folder / "[red]c")
    assert lines[2].startswith("[red]c  ") and lines[3] == "[red]c: prune_channels; seed 0"


def test_an_unfinished_run_among_others_is_named(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "killed" / ".stages").mkdir(parents=True)
    found = compare(capsys, "a", "killed", "c")
    shutil.rmtree(folder / "killed")
    message = "killed: the run there has not finished; continue it with --resume --out killed"
    assert found == (2, "", f"error: {message}\n")
