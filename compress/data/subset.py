"""A part of a data set that stands for the whole."""

import random
from collections.abc import Sequence


def spread(labels: Sequence[int], limit: int | None) -> list[int]:
    """Indices of at most `limit` samples, the same on each call: evenly over the classes, in random order.

    Random order, because data on disk are sorted by class and calibration takes what comes first.

    Args:
        labels: the class of each sample.
        limit: None takes all.
    """
    generator = random.Random(0)
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    classes = list(by_class.values())
    generator.shuffle(classes)
    for members in classes:
        generator.shuffle(members)
    chosen = _rounds(classes)[:limit]
    generator.shuffle(chosen)
    return chosen


def _rounds(classes: list[list[int]]) -> list[int]:
    """One of each list, then a second of each, until all are used up."""
    longest = max(map(len, classes), default=0)
    return [members[turn] for turn in range(longest) for members in classes if turn < len(members)]
