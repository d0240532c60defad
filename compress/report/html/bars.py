"""Horizontal bars with a name before and a number behind each."""

from collections.abc import Sequence
from dataclasses import dataclass

from compress.report.html.svg import LETTER, element, hint, line, picture, shortened, words

LETTERS = 24  # of a name
HEIGHT, GAP = 12, 8


@dataclass(frozen=True)
class Bar:
    """One row.

    Args:
        value: from 0; None draws no bar.
        text: the number with what belongs to it.
        whisker: a second value, which a thin line reaches; None draws none.
        class_: `before` for what the others are held against, `end` for the result.
    """

    name: str
    value: float | None
    text: str
    whisker: float | None = None
    class_: str = ""


def bars(what: str, rows: Sequence[Bar], width: float, full: float | None = None) -> str:
    """A picture of the rows.

    Args:
        what: is shown, with its unit: the beginning of the text alternative, which goes on with all names and numbers.
        full: what each bar is a part of, drawn as its outline; None scales to the largest.
    """
    names = [shortened(row.name, LETTERS) for row in rows]
    left = LETTER * max(map(len, names), default=0) + 8
    right = LETTER * max((len(row.text) for row in rows), default=0) + 8
    ends = [max(row.value or 0.0, row.whisker or 0.0) for row in rows]
    scale = max(width - left - right, 40) / (max([*ends, full or 0.0]) or 1.0)
    parts = []
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        top = number * (HEIGHT + GAP) + GAP / 2
        drawn = _row(row, name, left, top, scale, full)
        parts += drawn if name == row.name else [element("g", hint(row.name), *drawn)]
    label = f"{what}: " + "; ".join(f"{row.name} {row.text}" for row in rows)
    return picture(width, len(rows) * (HEIGHT + GAP), label, *parts)


def _row(row: Bar, name: str, left: float, top: float, scale: float, full: float | None) -> list[str]:
    middle, base = top + HEIGHT / 2, top + HEIGHT - 2
    parts = [words(left - 8, base, name, "end")]
    end = left
    if full is not None and row.value is not None:
        end = left + scale * full
        parts.append(element("rect", x=left, y=top, width=scale * full, height=HEIGHT, class_="outline"))
    if row.value is not None:
        end = max(end, left + scale * row.value)
        parts.append(element("rect", x=left, y=top, width=scale * row.value, height=HEIGHT, class_=f"bar {row.class_}".strip()))
    if row.value is not None and row.whisker is not None and row.whisker > row.value:
        end = left + scale * row.whisker
        parts += [line(left + scale * row.value, middle, end, middle, "whisker"), line(end, top + 2, end, top + 10, "whisker")]
    return [*parts, words(end + 6, base, row.text)]
