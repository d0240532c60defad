"""How often a call took how long."""

from typing import Any

from compress.report.html.axes import Axis
from compress.report.html.svg import LETTER, element, hint, line, picture, words

WIDTH, HEIGHT = 440, 170
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 48, 132


def histogram(what: str, latency: dict[str, Any], counts: dict[str, Any]) -> str:
    """A picture of the times of one file's calls.

    Args:
        what: was timed.
        latency: with `p50`, `p90` and `p99` in milliseconds.
        counts: of equal bins between `low_ms` and `high_ms`, and `above` them.
    """
    x = Axis(counts["low_ms"], counts["high_ms"], LEFT, WIDTH - RIGHT)
    bins, most = counts["counts"], max([1, *counts["counts"]])
    wide = (x.end - x.start) / len(bins)
    step = (x.high - x.low) / len(bins)
    parts = []
    for number, count in enumerate(bins):
        height = (BOTTOM - TOP) * count / most
        note = hint(f"{x.low + number * step:.4g} to {x.low + (number + 1) * step:.4g} ms: {count} calls")
        place = {"x": x.start + number * wide, "y": BOTTOM - height, "width": max(wide - 1, 1), "height": height}
        if count:
            parts.append(element("rect", note, class_="bar", **place))
    parts.append(line(x.start, BOTTOM, x.end, BOTTOM, "axis"))
    parts += [words(_inside(at, text), BOTTOM + 16, text, "middle") for at, text in x.ticks(5)]
    for number, name in enumerate(("p50", "p90", "p99")):
        text = f"{name} {latency[name]:.3g}"
        text += " →" if latency[name] > 1.001 * x.high else ""  # both are rounded
        at = min(max(x.at(latency[name]), x.start), x.end)
        bottom = TOP - 4 - 14 * (2 - number)  # one below the other: they may stand close
        parts.append(line(at, bottom - 9, at, BOTTOM, "whisker"))
        before = at + LETTER * len(text) > x.end
        parts.append(words(at - 4 if before else at + 4, bottom, text, "end" if before else ""))
    parts.append(words(x.end, BOTTOM + 33, "ms of one call", "end", "muted"))
    numbers = ", ".join(f"{name} {latency[name]:.3g}" for name in ("p50", "p90", "p99"))
    label = f"{what}: {sum(bins) + counts['above']} calls, in ms {numbers}; {counts['above']} took longer than the axis reaches"
    return picture(WIDTH, HEIGHT, label, *parts)


def _inside(at: float, text: str) -> float:
    """The middle of a text at `at`, moved so far that the picture holds all of it."""
    half = LETTER * len(text) / 2
    return min(max(at, half), WIDTH - half)
