"""What a pass is."""

import math
from typing import ClassVar, Protocol, runtime_checkable

from torch import nn

from compress.artifact import Artifact
from compress.errors import UserError

# The order of a pipeline. Recovery alternates with structure and with zeros, which it holds; nothing restructures after the
# zeros are there, nor trains after clusters or integers are: `compress.pipeline.MAY_FOLLOW` has it in full.
ORDER = ("structure", "sparsify", "recover", "cluster", "integers")


@runtime_checkable
class Pass(Protocol):
    """One step of a pipeline.

    Attributes:
        name: as recipes and the command line call it.
        stage: one of `ORDER`; decides which passes may stand before and after it.
        needs: fields of `Task` that must be there, such as `train` or `calibration`.
    """

    name: ClassVar[str]
    stage: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]

    def apply(self, artifact: Artifact) -> nn.Module:
        """The changed model; `artifact.model` is a copy and may be changed in place. Judged by the pipeline afterwards."""
        ...


def check_range(pass_name: str, option: str, value: float, low: float, high: float, *, open_ends: bool) -> None:
    """Raise UserError unless a number lies in (low, high), or in [low, high] where `open_ends` is False."""
    inside = low < value < high if open_ends else low <= value <= high
    if math.isnan(value) or not inside:
        brackets = "()" if open_ends else "[]"
        raise UserError(f"{pass_name}: {option} must be in {brackets[0]}{low:g}, {high:g}{brackets[1]}, got {value:g}")
