"""The formats: each is read back by a reader of its own."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.comparison import compare_runs
from compress.comparison.rows import COLUMNS, Comparison
from compress.comparison.text import FORMATS, cells, notes

HEADER = ("run", "n", "accuracy %", "ms p50", "p90", "size MB", "params M", "MMACs", "seconds", "faster", "smaller")
HOSTILE = "<b>&50%_a|"


@pytest.fixture
def found(made: Callable[..., Path]) -> Comparison:
    def worse(report: dict[str, Any]) -> None:
        report["stages"][-1]["accuracy"] = 0.86
        report["stages"][-1]["size_bytes"] = 500_001
        report["benchmarks"][1]["speedup"] = 7.0

    return compare_runs({HOSTILE: made("a"), "b\nc": made("b", worse, seed=1)})


def test_a_figure_has_its_spread_where_that_can_be_seen(found: Comparison) -> None:
    header, rows, left = cells(found)
    name = f"{HOSTILE}, b\nc"
    assert header == HEADER
    assert rows == [
        ("baseline", "2", "90.00", "4.200", "4.900", "8.00", "2.000", "80.0", "0.0", "1.00x", "1.00x"),
        (name, "2", "87.00 ± 1.41", "0.700", "0.750", "0.50", "0.500", "20.0", "3.5", "6.50x ± 0.71", "16.00x"),
    ]
    assert left == (0,)
    assert notes(found)[-1] == "n runs in one row: mean ± sample standard deviation, where that is not 0"


def test_stages_settings_and_numbers_have_a_column_where_there_are_several(made: Callable[..., Path]) -> None:
    def elsewhere(report: dict[str, Any]) -> None:
        report["environment"]["cpu"] = "B CPU"

    one, other = made("a"), made("b", elsewhere)
    assert cells(compare_runs([one]))[0] == ("run", *HEADER[2:])
    header, _, left = cells(compare_runs([one, other], stages=True))
    assert (header, left) == (("run", "stage", "setting", *HEADER[2:]), (0, 1))


def test_what_was_not_scored_is_a_dash(made: Callable[..., Path]) -> None:
    def unscored(report: dict[str, Any]) -> None:
        for stage in report["stages"]:
            stage["accuracy"] = stage["eval_samples"] = None

    found = compare_runs([made("a", unscored)])
    assert [row[1] for row in cells(found)[1]] == ["-", "-"]
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](found))))
    assert [row["accuracy_percent"] for row in rows] == ["", ""]


def test_csv_and_json_give_back_the_rows(found: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](found))))
    assert tuple(rows[0]) == COLUMNS
    as_texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in found.rows]
    assert rows == as_texts
    assert json.loads(FORMATS["json"](found)) == {"rows": list(found.rows), "notes": list(found.notes)}


def test_markdown_html_and_latex_hold_the_table_and_the_notes_escaped(found: Comparison) -> None:
    markdown, page, latex = (FORMATS[name](found) for name in ("md", "html", "latex"))
    note = "prune_channels > int8; seeds 0, 1"
    assert r"| \<b>&50%_a\|, b c | 2 | 87.00 ± 1.41 |" in markdown
    assert rf"- \<b>&50%_a\|, b c: {note}" in markdown.splitlines()
    assert '<th scope="row" style="text-align: left">&lt;b&gt;&amp;50%_a|, b\nc</th>' in page and "<b>" not in page
    assert f"<li>&lt;b&gt;&amp;50%_a|, b c: {note.replace('>', '&gt;')}</li>" in page.splitlines()
    lines = latex.splitlines()
    assert lines[:2] == [r"% \usepackage{booktabs}", f"% {HOSTILE}, b c: {note}"]
    table = lines.index(r"\begin{tabular}{lrrrrrrrrrr}")
    assert all(line.startswith("% ") for line in lines[:table])
    assert lines[table + 5].startswith(r"\textless{}b\textgreater{}\&50\%\_a\textbar{}, b c & 2 & 87.00 $\pm$ 1.41 & ")
