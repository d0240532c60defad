"""Accuracy against latency, a mark for each stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from compress.pareto import front
from compress.report.html.axes import Axis, frame
from compress.report.html.svg import LETTER, element, hint, line, picture, polyline, shortened, words

WIDTH, HEIGHT = 440, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 34, 290
LETTERS = 20  # of a label
# Where a label may stand beside its mark, the best first: (right, down, anchor).
PLACES = (
    (9, -6, ""),
    (9, 16, ""),
    (-9, -6, "end"),
    (-9, 16, "end"),
    (0, -12, "middle"),
    (0, 22, "middle"),
    (9, -20, ""),
    (9, 30, ""),
    (-9, -20, "end"),
    (-9, 30, "end"),
    (9, -34, ""),
    (9, 44, ""),
    (-9, -34, "end"),
    (-9, 44, "end"),
)
NEAR = 16  # farther down or up than this, a line leads to the mark

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A stage: p50 of single calls in milliseconds, and accuracy in percent."""

    name: str
    latency_ms: float
    accuracy: float


def on_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both, the fastest first; of equal ones the earliest."""
    best = front([(point.latency_ms, point.accuracy) for point in points])
    return [next(point for point in points if (point.latency_ms, point.accuracy) == pair) for pair in best]


def scatter(points: Sequence[Point]) -> str:
    """A picture of the points, of which the first is the baseline, with the line over which nothing was found."""
    x = Axis.around([point.latency_ms for point in points], LEFT, WIDTH - RIGHT, zero=True)
    y = Axis.around([point.accuracy for point in points], BOTTOM, TOP)
    best = on_front(points)
    parts = frame(x, y, "latency, ms (p50)", "accuracy, %")
    corners: list[tuple[float, float]] = []
    for point in best:
        if corners:
            corners.append((x.at(point.latency_ms), corners[-1][1]))
        corners.append((x.at(point.latency_ms), y.at(point.accuracy)))
    parts.append(polyline([*corners, (x.end, corners[-1][1])], "front"))  # whoever can wait still has the most accurate
    marks = [(x.at(point.latency_ms), y.at(point.accuracy)) for point in points]
    taken = [(at_x - 6, at_y - 6, at_x + 6, at_y + 6) for at_x, at_y in marks]
    by_worth = sorted(zip(marks, points, strict=True), key=lambda pair: pair[1] not in best)
    parts += [_mark(*at, point, point is points[0], point in best) for at, point in reversed(by_worth)]  # the best on top
    for at, point in by_worth:  # and with their choice of places
        parts += _label(at, shortened(point.name, LETTERS), taken)
    spoken = "; ".join(f"{point.name} {point.accuracy:.2f} % in {point.latency_ms:.4g} ms" for point in points)
    label = f"Accuracy against latency: {spoken}. Pareto front: {', '.join(point.name for point in best)}"
    return picture(WIDTH, HEIGHT, label, *parts)


def _mark(x: float, y: float, point: Point, baseline: bool, best: bool) -> str:
    note = hint(f"{point.name}: {point.accuracy:.2f} %, {point.latency_ms:.4g} ms")
    class_ = "point" if best else "point beaten"
    if baseline:
        return element("rect", note, x=x - 5, y=y - 5, width=10, height=10, class_=class_)
    return element("circle", note, cx=x, cy=y, r=5, class_=class_)


def _label(at: tuple[float, float], text: str, taken: list[Box]) -> list[str]:
    """The text where nothing stands yet, which is added to `taken`; nothing where there is no room left near the mark."""
    for right, down, anchor in PLACES:
        x, y = at[0] + right, at[1] + down
        width = LETTER * len(text)
        start = x - {"": 0.0, "middle": width / 2, "end": width}[anchor]
        box = (start, y - 10, start + width, y + 3)
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= TOP - 8 and box[3] <= BOTTOM
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            far = right != 0 and abs(down) > NEAR
            return [line(*at, x - 2 if right > 0 else x + 2, y - 4, "leader")] * far + [words(x, y, text, anchor)]
    return []


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
