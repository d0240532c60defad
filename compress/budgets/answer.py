"""The ratio found for a budget, or why there is none."""

from dataclasses import dataclass

from compress.budgets.cost import Cost
from compress.budgets.target import Budget
from compress.pruning.channels import ChannelPruner


@dataclass(frozen=True)
class Answer:
    """The ratio found, and the costs at it, in the budget's unit.

    Attributes:
        spread: half of the 95 % interval of a measured cost; 0 where it is counted.
        gave_up_after: how many networks were measured, where none came near the limit and others might; else None.
    """

    ratio: float
    baseline: float
    limit: float
    cost: float
    spread: float = 0.0
    gave_up_after: int | None = None


def protected(pruner: ChannelPruner) -> int:
    """How many of a pruner's groups cannot be cut."""
    return sum(group.fixed is not None for group in pruner.groups)


def unreachable(budget: Budget, pruner: ChannelPruner, closest: Cost, limit: float) -> str:
    """Why no ratio is enough, and how close one can get."""
    spread = f" +- {budget.show(closest.spread)}" if closest.spread else ""
    return (
        f"the target {budget.kind} = {budget.show(limit)} cannot be reached: with every group at its narrowest it is "
        f"{budget.show(closest.value)}{spread} "
        f"(round_to {pruner.settings.round_to}; {protected(pruner)} of {len(pruner.groups)} groups are protected)"
    )
