"""A budget as a person writes it: a fraction of the baseline, or a number with a unit."""

import math
import re
from dataclasses import dataclass

from compress.errors import UserError, did_you_mean

KINDS = ("macs", "params", "size", "latency")
UNITS = {
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "size": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9},
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
}
SHOWN = {"macs": ("MACs", "MMACs"), "params": ("parameters", "M parameters"), "size": ("bytes", "MB")}


@dataclass(frozen=True)
class Budget:
    """What the pruned network may cost.

    Attributes:
        kind: one of `KINDS`.
        value: a fraction of the baseline, or MACs, parameters, bytes or milliseconds.
        fraction: which of the two.
    """

    kind: str
    value: float
    fraction: bool

    def limit(self, baseline: float) -> float:
        """In the kind's own unit."""
        return self.value * baseline if self.fraction else self.value

    def show(self, value: float) -> str:
        """A number of the kind's unit as text, such as `49.0 MMACs`."""
        if self.kind == "latency":
            return f"{value:.4g} ms"
        small, large = SHOWN[self.kind]
        return f"{value:.0f} {small}" if value < 1e5 else f"{value / 1e6:.4g} {large}"


def parse(text: str, what: str = "target") -> Budget:
    """`macs=0.5` (a fraction of the baseline), `params=1.2M`, `size=5MB`, `latency=3ms`.

    Raises:
        UserError: anything else; says what would be right.
    """
    kind, _, value = (part.strip() for part in text.partition("="))
    if kind not in KINDS:
        raise UserError(f"{what} must be macs, params, size or latency, got '{text}'." + did_you_mean(kind, list(KINDS)))
    match = re.fullmatch(r"([0-9.]+(?:e-?[0-9]+)?)\s*([a-zA-Z]*)", value)
    units = UNITS[kind]
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    unit = match[2].lower() if match else ""
    if unit == "" and 0 < number < 1:
        return Budget(kind, number, True)
    if unit not in units or not number > 0 or (unit == "" and number < 1000):
        known = " or ".join(f"{kind}=3{unit}" if unit else f"{kind}=3000" for unit in list(units)[:3])
        raise UserError(f"{what} must be a fraction of the baseline in (0, 1), such as {kind}=0.5, or {known}; got '{text}'")
    return Budget(kind, number * units[unit], False)
