"""What changed from epoch to epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

from compress.report.html.axes import Axis, frame
from compress.report.html.svg import element, hint, picture, polyline, words

WIDTH, LEFT, RIGHT = 440, 52, 12
TOP, LEGEND, PLOT, BELOW = 30, 22, 150, 40
MOST_POINTS = 200
MOST_MARKS = 30


@dataclass(frozen=True)
class Curve:
    """A line; the second of a picture is dashed and has squares for marks.

    Args:
        points: (epoch, value); at least one.
    """

    name: str
    points: Sequence[tuple[float, float]]


def curves(what: str, title: str, lines: Sequence[Curve]) -> str:
    """A picture of one or two curves over epochs.

    Args:
        what: is shown: the beginning of the text alternative, which goes on with each curve's first and last value.
        title: of the vertical axis, with the unit.
    """
    thin = [(curve.name, thinned(curve.points)) for curve in lines]
    epochs = [x for _, points in thin for x, _ in points]
    top = TOP + (LEGEND if len(thin) > 1 else 0)
    x = Axis.around(epochs, LEFT, WIDTH - RIGHT)
    y = Axis.around([value for _, points in thin for _, value in points], top + PLOT, top)
    parts = frame(x, y, "epoch", title, whole=True)
    for number, (name, points) in enumerate(thin):
        kind = "second" if number else ""
        at = [(x.at(epoch), y.at(value)) for epoch, value in points]
        parts.append(polyline(at, f"curve {kind}".strip()))
        for place, (epoch, value) in zip(at, points, strict=True):
            if len(at) <= MOST_MARKS:
                parts.append(_mark(*place, f"{name}, epoch {epoch:g}: {value:.4g}", kind))
        if len(thin) > 1:
            here, up = LEFT + number * (WIDTH - LEFT) / 2, 8
            parts.append(polyline([(here, up), (here + 24, up)], f"curve {kind}".strip()))
            parts += [_mark(here + 12, up, name, kind), words(here + 30, up + 4, name)]
    spoken = [f"{name} {points[0][1]:.4g} after epoch {points[0][0]:g}" + _end(points) for name, points in thin]
    return picture(WIDTH, top + PLOT + BELOW, f"{what}: {'; '.join(spoken)}", *parts)


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points, evenly taken, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[number * (len(points) - 1) // (most - 1)] for number in range(most)]


def _end(points: Sequence[tuple[float, float]]) -> str:
    return f", {points[-1][1]:.4g} after epoch {points[-1][0]:g}" if len(points) > 1 else ""


def _mark(x: float, y: float, text: str, kind: str) -> str:
    if kind:
        return element("rect", hint(text), x=x - 3, y=y - 3, width=6, height=6, class_="mark second")
    return element("circle", hint(text), cx=x, cy=y, r=3, class_="mark")
