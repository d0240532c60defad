"""A comparison as the text that a terminal, a file or a paper takes."""

import csv
import io
from collections.abc import Callable

from compress.comparison.rows import COLUMNS, Comparison, Row
from compress.report.json_text import dumps
from compress.tables import html_block, latex_table, markdown_escaped, markdown_table

# Heading, figure, digits, and what follows the number.
CELLS = (
    ("accuracy %", "accuracy_percent", 2, ""),
    ("ms p50", "latency_ms_p50", 3, ""),
    ("p90", "latency_ms_p90", 3, ""),
    ("size MB", "size_mb", 2, ""),
    ("params M", "params_m", 3, ""),
    ("MMACs", "mmacs", 1, ""),
    ("seconds", "seconds", 1, ""),
    ("faster", "speedup", 2, "x"),
    ("smaller", "size_ratio", 2, "x"),
)


def cells(found: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[int, ...]]:
    """Header, rows, and which columns hold words. Stages, settings and numbers of runs have a column where there are several."""
    words = ("run", "stage") if found.stages else ("run",)
    counts = [name for name, wanted in (("setting", len(found.settings) > 1), ("n", _folded(found))) if wanted]
    header = (*words, *counts, *(heading for heading, *_ in CELLS))
    rows = [(*(str(row[name]) for name in (*words, *counts)), *(_cell(row, *cell[1:]) for cell in CELLS)) for row in found.rows]
    return header, rows, tuple(range(len(words)))


def notes(found: Comparison) -> list[str]:
    """What must be read beside the cells, each on one line whatever the folders are called."""
    spread = ["n runs in one row: mean ± sample standard deviation, where that is not 0"] if _folded(found) else []
    return [" ".join(note.split()) for note in (*found.notes, *spread)]


def to_markdown(found: Comparison) -> str:
    """A table in GitHub's Markdown, and the notes as a list."""
    return "\n".join([*markdown_table(*cells(found)), "", *(f"- {markdown_escaped(note)}" for note in notes(found))])


def to_html(found: Comparison) -> str:
    """A table and a list, to be put into a page or opened as it is; no styles but the side that numbers stand on."""
    header, rows, left = cells(found)
    return html_block(header, rows, notes(found), left)


def to_latex(found: Comparison) -> str:
    """A tabular that needs the package booktabs; the notes are comments before it."""
    return "\n".join(["% \\usepackage{booktabs}", *(f"% {note}" for note in notes(found)), latex_table(*cells(found))])


def to_csv(found: Comparison) -> str:
    """All columns of `compress.compare`, unrounded; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.rows)
    return text.getvalue().rstrip("\n")


def to_json(found: Comparison) -> str:
    """All columns of `compress.compare`, and the notes."""
    return dumps(found.to_dict()).rstrip("\n")


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "md": to_markdown,
    "csv": to_csv,
    "html": to_html,
    "latex": to_latex,
    "json": to_json,
}


def _folded(found: Comparison) -> bool:
    return any(row["n"] > 1 for row in found.rows)


def _cell(row: Row, figure: str, digits: int, unit: str) -> str:
    value, spread = row[figure], row.get(f"{figure}_std")
    if value is None:
        return "-"
    text = f"{value:.{digits}f}{unit}"
    return f"{text} ± {spread:.{digits}f}" if round(spread or 0, digits) else text
