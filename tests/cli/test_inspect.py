"""`compress inspect` as a person meets it."""

import json
import logging
import warnings
from pathlib import Path

import pytest

from cli.main import main
from compress.recipe import Recipe
from compress.run import Options, run_recipe

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}
MINE = """
from compress.testing import tiny_model, tiny_task
def net():
    print("of my own")
    return tiny_model(), tiny_task()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("inspect")
    (here / "mine.py").write_text(MINE)
    steps = (("int8", {"exclude": ["body"]}),)
    run_recipe(Recipe(model=f"{here}/mine.py:net", passes=steps), Options(out=here / "out", timing=QUICK))
    return here / "out"


def compress(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    disabled = logging.root.manager.disable  # the command line silences libraries for its whole process, which here is ours
    capsys.readouterr()
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    logging.disable(disabled)
    streams = capsys.readouterr()
    return int(stopped.value.code or 0), streams.out, streams.err


def test_the_table_and_the_picture(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "errors.svg"
    code, out, err = compress(capsys, "inspect", str(folder), "--plot", str(picture))
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line != "of my own"]
    header = "layer kind bits weight dB low high clipped % own dB channel dB all dB"
    assert " ".join(lines[0].split()) == header
    rows = [line.rsplit(maxsplit=9) for line in lines[1:-2]]
    found = {row[0]: row[2] for row in rows}
    assert [found[name] for name in ("x", "stem", "body", "head")] == ["-", "8", "float", "8"]
    assert lines[-2].startswith("on 64 calibration samples; dB of signal over error, 20 for a tenth of error: own with ")
    assert lines[-1] == f"note: the picture is in {picture}"
    assert picture.read_text().startswith("<?xml")


def test_json_has_every_number_and_nothing_of_the_users_own_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = compress(capsys, "inspect", str(folder), "--json")
    assert code == 0
    assert set(err.splitlines()) == {"of my own"}
    found = json.loads(out)
    assert found["samples"] == 64
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert (by_name["stem"]["bits"], by_name["body"]["bits"]) == (8, None)
    assert by_name["stem"]["low"] == 0 < by_name["stem"]["high"]
    assert 30 < by_name["stem"]["own_db"] < 60


def test_worst_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = compress(capsys, "inspect", str(folder), "--order", "worst")
    rows = [line.rsplit(maxsplit=9) for line in out.splitlines() if line != "of my own"][1:-1]
    own = [float(row[-3]) for row in rows if row[-3] != "-"]
    assert own == sorted(own)
    assert len(own) > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere holds no compressed model: manifest.json is missing"),
        (["nowhere", "--plot", "a.jpg"], "a picture's name ends in .png, .svg or .pdf, got a.jpg"),
        (["nowhere", "--plot", "no/a.png"], "no/a.png cannot be written: there is no folder no"),
        (["nowhere", "--order", "best"], "Invalid value for '--order': 'best' is not one of 'network', 'worst'."),
    ],
)
def test_mistakes_are_told(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert compress(capsys, "inspect", *arguments) == (2, "", f"error: {message}\n")
