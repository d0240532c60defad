"""`compress.compare` as a notebook uses it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import compress
from compress.comparison import compare_runs
from compress.comparison.rows import COLUMNS, FIGURES


def test_the_frame_holds_the_rows_with_numbers_as_numbers(made: Callable[..., Path]) -> None:
    pytest.importorskip("pandas", reason="compress.compare needs pandas")
    folders = [made("a"), made("b", lambda report: report["stages"][-1].update(accuracy=None), seed=1)]
    frame, plain = compress.compare(folders, stages=True), compare_runs(folders, stages=True)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == len(plain.rows)
    for name in FIGURES:
        assert frame[name].dtype == "float64"
        assert frame[name].isna().tolist() == [row[name] is None for row in plain.rows]
    assert frame["accuracy_percent"].dropna().tolist() == [90.0, 50.0]
    assert frame.attrs["notes"] == list(plain.notes)


def test_nothing_known_is_still_a_number(made: Callable[..., Path]) -> None:
    pytest.importorskip("pandas", reason="compress.compare needs pandas")

    def unscored(report: dict) -> None:
        for stage in report["stages"]:
            stage["accuracy"] = stage["eval_samples"] = None

    frame = compress.compare([made("a", unscored)])
    assert frame["accuracy_percent"].dtype == frame["accuracy_percent_std"].dtype == "float64"
    assert frame["eval_samples"].isna().all()


def test_without_pandas_one_line_says_what_to_install(made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(compress.UserError) as error:
        compress.compare([made("a")])
    assert str(error.value) == (
        "compress.compare gives a pandas DataFrame; install it with: pip install 'compress-toolkit[compare]' "
        "(the command compress compare needs none)"
    )
