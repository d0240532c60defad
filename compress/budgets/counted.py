"""The smallest ratio within a limit, over costs that are counted or predicted: they are exact, and fall with the ratio."""

from collections.abc import Callable

from compress.budgets.answer import Answer, unreachable
from compress.budgets.cost import Cost
from compress.budgets.target import Budget
from compress.errors import UserError
from compress.pruning.channels import ChannelPruner

# The largest ratio that is tried: every group at its narrowest.
MOST = 0.9999

Network = tuple[tuple[str, int], ...]


def network_of(pruner: ChannelPruner, ratio: float) -> Network:
    """What tells cut networks apart: many ratios round to one."""
    return tuple((group.id, len(units)) for group, units in pruner.cuts(ratio))


def once(pruner: ChannelPruner, cost: Callable[[float], float]) -> Callable[[float], float]:
    """`cost`, computed once for each network."""
    known: dict[Network, float] = {}

    def found(ratio: float) -> float:
        network = network_of(pruner, ratio)
        if network not in known:
            known[network] = cost(ratio)
        return known[network]

    return found


def smallest(cost: Callable[[float], float], limit: float, low: float = 0.0, high: float = MOST) -> float | None:
    """The smallest ratio, to a thousandth, whose cost is within the limit; None if none is. Costs fall with the ratio."""
    if cost(high) > limit:
        return None
    if cost(low) <= limit:
        return low
    while high - low > 1e-3:
        middle = (low + high) / 2
        if cost(middle) <= limit:
            high = middle
        else:
            low = middle
    return high


def search_counts(budget: Budget, pruner: ChannelPruner, baseline: float, cost: Callable[[float], float]) -> Answer:
    """The answer by halves, over costs that are counted.

    Raises:
        UserError: no ratio is enough; says how close one can get.
    """
    limit, cost = budget.limit(baseline), once(pruner, cost)
    ratio = smallest(cost, limit)
    if ratio is None:
        raise UserError(unreachable(budget, pruner, Cost(cost(MOST)), limit))
    return Answer(ratio, baseline, limit, cost(ratio))
