"""Numbers to pixels, and the round numbers that stand beside an axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compress.report.html.svg import line, words

MARGIN = 0.08  # of the values' range, on each side


@dataclass(frozen=True)
class Axis:
    """A straight scale.

    Args:
        low, high: the values at its ends, low < high.
        start, end: the pixels there; a vertical axis has the larger one at its low end.
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, zero: bool = False) -> "Axis":
        """An axis that holds all values, with room beside them; or from 0, with room above. One value alone is in the middle."""
        low, high = (0.0 if zero else min(values)), max(values)
        if high <= low:
            low, high = (low, low + 1.0) if zero else (low - (abs(low) or 1.0) / 10, low + (abs(low) or 1.0) / 10)
        room = MARGIN * (high - low)
        return cls(low if zero else low - room, high + room, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 6, whole: bool = False) -> list[tuple[float, str]]:
        """(pixel, text) of round numbers, `most` at the most; with `whole` of integers only."""
        step = _step((self.high - self.low) / most, whole)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.at(number * step), f"{number * step:.{digits}f}") for number in range(first, last + 1)]


def _step(least: float, whole: bool) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    return max(1.0, step) if whole else step


def frame(x: Axis, y: Axis, x_title: str, y_title: str, whole: bool = False) -> list[str]:
    """Grid, numbers and titles of a plot; the vertical title stands above its axis, where it can be read. `whole`: of x."""
    parts = [line(x.start, at, x.end, at, "grid-line") + words(x.start - 6, at + 4, text, "end") for at, text in y.ticks(5)]
    for at, text in x.ticks(6, whole):
        parts.append(line(at, y.start, at, y.end, "grid-line") + words(at, y.start + 16, text, "middle"))
    parts += [line(x.start, y.start, x.end, y.start, "axis")]
    return [*parts, words(x.end, y.start + 33, x_title, "end", "muted"), words(2, y.end - 10, y_title, class_="muted")]
