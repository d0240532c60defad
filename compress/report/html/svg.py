"""SVG as text. Every picture carries in words what it shows; colours and fonts are those of `style.css`, by class."""

import math

from compress.tables import html_escaped

LETTER = 7.2  # pixels that a letter takes on average in the pictures, in the wider of the usual fonts


def element(tag: str, *inside: str, **attributes: str | float) -> str:
    """One element.

    Args:
        inside: markup; text goes through `words` or `hint`.
        attributes: numbers are pixels; `class_` stands for `class`, `stroke_width` for `stroke-width`. Empty ones are left out.

    Raises:
        ValueError: a number is not finite: nothing can be drawn there.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"' for name, value in attributes.items() if value != ""
    )
    return f"<{tag}{given}>{''.join(inside)}</{tag}>" if inside else f"<{tag}{given}/>"


def picture(width: float, height: float, label: str, *inside: str) -> str:
    """An image of this many pixels, which a page may scale; `label` is what a screen reader says."""
    return element("svg", *inside, role="img", aria_label=label, width=width, height=height, viewBox=f"0 0 {width:g} {height:g}")


def words(x: float, y: float, text: str, anchor: str = "", class_: str = "") -> str:
    """Text whose baseline starts, or with `anchor` ends or has its middle, at a point."""
    return element("text", html_escaped(text), x=x, y=y, text_anchor=anchor, class_=class_)


def hint(text: str) -> str:
    """What is shown when the pointer rests on the element that this stands in."""
    return element("title", html_escaped(text))


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("path", d=f"M{_value(x1)} {_value(y1)}L{_value(x2)} {_value(y2)}", class_=class_)


def polyline(points: list[tuple[float, float]], class_: str) -> str:
    """A line through points."""
    return element("path", d="M" + "L".join(f"{_value(x)} {_value(y)}" for x, y in points), class_=class_)


def shortened(text: str, letters: int) -> str:
    """The text in at most so many letters, without its middle: names of layers differ at their ends."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 3
    return f"{text[:head]}…{text[len(text) - (letters - 1 - head) :]}"


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return html_escaped(value)
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be drawn")
    return f"{round(value, 1) + 0.0:.12g}"
