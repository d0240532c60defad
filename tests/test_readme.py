"""The README's table is that of the run that its evidence holds, and its picture is small."""

import json
from pathlib import Path

from compress.report.text import stage_table

ROOT = Path(__file__).parent.parent


def test_the_table_is_the_benchmarks() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    begin = lines.index("$ make demo TORCH=cpu") + 1
    header, rows = stage_table(json.loads((ROOT / "benchmarks/results/demo.json").read_text()))
    shown = [line.split() for line in lines[begin : begin + 1 + len(rows)]]
    assert shown == [" ".join(cells).split() for cells in (header, *rows)]
    assert lines[begin + 1 + len(rows)] == "```"


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs/images/report.png").stat().st_size < 150_000
