"""What a network was measured to cost, and whether that is within a limit, and near it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TOLERANCE = 0.05
ROUNDS = (3, 12)  # timings of a network beside the baseline, at least and at most, before it is judged
# Student's t at 97.5 %, for 2, 3, ... 12 timings.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)


@dataclass(frozen=True)
class Cost:
    """A measured cost in its budget's unit; `spread` is half of its 95 % interval, and 0 where it is exact."""

    value: float
    spread: float = 0.0

    def within(self, limit: float) -> bool:
        """At most the limit, and hardly more even if all of the spread were bad luck."""
        return self.value <= limit and self.value + self.spread <= limit * (1 + TOLERANCE)

    def near(self, limit: float) -> bool:
        """As close as can be asked for: within 5 % of the limit, or within the spread."""
        return self.value >= limit - max(TOLERANCE * limit, self.spread)


def steady(draw: Callable[[], float], limit: float) -> Cost:
    """The mean of as many draws as it takes to tell on which side of the limit it is: `ROUNDS`, at least and at most.

    Source: Student 1908, "The Probable Error of a Mean" (the interval).
    """
    least, most = ROUNDS
    values = [draw() for _ in range(least)]
    while True:
        spread = T975[len(values) - 2] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        cost = Cost(float(np.mean(values)), spread)
        if len(values) == most or cost.within(limit) or cost.value - spread > limit:
            return cost
        values.append(draw())
