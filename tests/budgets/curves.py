"""What a search in measured costs meets: a pruner of one group, costs of what is left, and predictions of them."""

from collections.abc import Callable
from types import SimpleNamespace


class Widths:
    """Stands for a pruner of one group with `units` units; keeps, like a real one, whole units."""

    def __init__(self, units: int = 64) -> None:
        self.units, self.settings = units, SimpleNamespace(round_to=1)
        self.groups = [SimpleNamespace(fixed=None), SimpleNamespace(fixed="an output of the model")]

    def removed(self, ratio: float) -> int:
        return min(int(ratio * self.units), self.units - 1)

    def cuts(self, ratio: float) -> list[tuple[SimpleNamespace, tuple[int, ...]]]:
        gone = self.removed(ratio)
        return [(SimpleNamespace(id="a"), tuple(range(gone)))] if gone else []


Curve = Callable[[float], float]
COSTS: dict[str, Curve] = {  # milliseconds, of the share that is left
    "linear": lambda left: 10 * left,
    "quadratic with overhead": lambda left: 1 + 9 * left**2,
    "root": lambda left: 10 * left**0.5,
    "flat at first": lambda left: min(10, 12 * left),
}
PREDICTIONS: dict[str, Curve] = {  # of the ratio
    "right for one": lambda ratio: 10 * (1 - ratio),
    "a hundred times too large": lambda ratio: 1000 * (1 - ratio),
    "constant": lambda ratio: 5,
    "zero": lambda ratio: 0,
    "rising": lambda ratio: 1 + ratio,
    "much too steep": lambda ratio: (1 - ratio) ** 8,
    "much too flat": lambda ratio: (1 - ratio) ** 0.1,
    "a step at the start": lambda ratio: 10 if ratio < 0.05 else 1,
    "a step at the end": lambda ratio: 10 if ratio < 0.95 else 1,
}
