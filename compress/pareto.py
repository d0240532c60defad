"""What is beaten in both, and what is not."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (latency, accuracy) of which no other is as fast, as accurate, and better in one; the fastest first.

    >>> front([(4.0, 0.93), (1.0, 0.91), (2.0, 0.90)])
    [(1.0, 0.91), (4.0, 0.93)]
    """
    found: list[tuple[float, float]] = []
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or accuracy > found[-1][1]:
            found.append((latency, accuracy))
    return found
