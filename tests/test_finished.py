"""`report.html` of runs that have ended, written again."""

import json
from pathlib import Path

import pytest

import compress
from compress.errors import UserError
from compress.finished import read_report, rewrite_html
from compress.passes.prune_channels import PruneChannels
from compress.testing import tiny_model, tiny_task

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    compress.run(tiny_model(), tiny_task(), [PruneChannels(0.5, round_to=4)], out=folder, timing=QUICK)
    return folder


def edited(finished: Path, folder: Path, change: object = None) -> Path:
    """A copy with another report and no manifest; `change` is text, or a function that changes the report in place."""
    folder.mkdir()
    report = json.loads((finished / "report.json").read_text())
    if callable(change):
        change(report)
    (folder / "report.json").write_text(change if isinstance(change, str) else json.dumps(report))
    return folder


def test_the_page_is_the_same_as_the_run_wrote(finished: Path) -> None:
    page = finished / "report.html"
    written = page.read_bytes()
    assert b"call compress.run with it" in written and b"ratio: 0.5" in written
    page.unlink()
    assert rewrite_html(finished) == page
    assert page.read_bytes() == written


def test_a_report_alone_and_of_an_older_version_is_shown(finished: Path, tmp_path: Path) -> None:
    def older(report: dict) -> None:
        report["model"] = "edited"
        del report["layers"]
        for entry in report["benchmarks"]:
            del entry["histogram"]

    page = rewrite_html(edited(finished, tmp_path / "old", older)).read_text()
    assert "<h1>edited</h1>" in page and "The folder has no recipe.yaml." in page and "<h2>Layers" not in page
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["report.html", "report.json"]


def test_what_cannot_be_shown_is_told_and_writes_nothing(finished: Path, tmp_path: Path) -> None:
    changes = {
        "it has no accuracy": lambda report: report["stages"][0].pop("accuracy"),
        "Out of range float values are not JSON compliant: nan": lambda report: report["stages"][0].update(seconds=float("nan")),
    }
    for number, (what, change) in enumerate(changes.items()):
        folder = edited(finished, tmp_path / str(number), change)
        with pytest.raises(UserError) as caught:
            rewrite_html(folder)
        assert str(caught.value) == f"{folder}/report.json cannot be shown: {what}"
        assert [path.name for path in folder.iterdir()] == ["report.json"]


def test_a_folder_without_a_finished_run_is_named(tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(UserError) as caught:
            read_report(folder)
        return str(caught.value)

    assert refused(tmp_path / "none") == f"no such folder: {tmp_path}/none"
    assert refused(tmp_path) == f"{tmp_path} holds no run"
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "recipe.yaml").write_text("")
    assert refused(tmp_path / "killed") == (
        f"{tmp_path}/killed: the run there has not finished; continue it with --resume --out {tmp_path}/killed"
    )
