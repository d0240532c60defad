"""The smallest ratio within a limit, over costs that are measured: a prediction is the guide, a measurement the judge."""

from collections.abc import Callable

from compress.budgets.answer import Answer, unreachable
from compress.budgets.cost import TOLERANCE, Cost
from compress.budgets.counted import MOST, Network, network_of, once, smallest
from compress.budgets.target import Budget
from compress.errors import UserError
from compress.progress import report
from compress.pruning.channels import ChannelPruner

TRIALS = 10  # networks that are measured
MORE = 3  # further ones, each time that a second measurement refuses what the first one accepted


def search_measurements(
    budget: Budget,
    pruner: ChannelPruner,
    baseline: float,
    predict: Callable[[float], float],
    measure: Callable[[float], Cost],
    *,
    noisy: bool = False,
) -> Answer:
    """Search in predictions, measure the answer, correct, until a measured answer is just within the limit.

    Args:
        noisy: of the networks that were measured, the one that is chosen is likely to have been lucky. It must be within the
            limit a second time, else the search goes on among the narrower ones.

    Raises:
        UserError: no ratio is enough; says how close one can get.
    """
    limit = budget.limit(baseline)
    search = _Search(budget.kind, pruner, limit, once(pruner, predict), measure)
    if not search.within(MOST):
        raise UserError(unreachable(budget, pruner, search.seen[MOST], limit))
    if search.within(0.0):
        search.high = 0.0
    trials = TRIALS
    while True:
        ended = search.narrow(trials)
        cost = search.seen[search.high]
        if noisy:
            cost = measure(search.high)
            search.correct(cost)
        if not cost.within(limit):
            if not search.step_back():
                raise UserError(unreachable(budget, pruner, cost, limit))
            trials = max(TRIALS, len(search.networks) + MORE)
        elif ended or cost.near(limit) or len(search.networks) >= trials:
            after = None if ended or cost.near(limit) else len(search.networks)
            return Answer(search.high, baseline, limit, cost.value, cost.spread, after)


class _Search:
    """Two ends that close in on the limit: `low` costs too much, `high` does not.

    A prediction that missed twice is given up for what was measured: the line between the two ends, and their middle, by turns.
    """

    def __init__(
        self,
        kind: str,
        pruner: ChannelPruner,
        limit: float,
        predict: Callable[[float], float],
        measure: Callable[[float], Cost],
    ) -> None:
        self.kind, self.pruner, self.limit, self.predict, self.measure = kind, pruner, limit, predict, measure
        self.low, self.high, self.last = 0.0, MOST, 0.0
        self.seen: dict[float, Cost] = {}
        self.networks: dict[Network, Cost] = {}

    def within(self, ratio: float) -> bool:
        """Whether the network of this ratio, which is measured once, meets the limit."""
        network = network_of(self.pruner, ratio)
        if network not in self.networks:
            report(f"measure {self.kind}", len(self.networks), TRIALS)
            self.networks[network] = self.measure(ratio)
        self.seen[ratio] = self.networks[network]
        return self.seen[ratio].within(self.limit)

    def narrow(self, trials: int) -> bool:
        """Bring the ends together; whether they have met, so that no other network lies between them."""
        halve = False
        while self.high - self.low > 1e-3:
            if len(self.networks) >= trials or self.seen[self.high].near(self.limit):
                return False
            known = len(self.networks)
            guess = None if halve else self._predicted() if known < 4 else self._interpolated()
            if guess is None or not self.low < guess < self.high:
                guess = (self.low + self.high) / 2
            if self.within(guess):
                self.high = guess
            else:
                self.low = guess
            self.last = guess
            # Many ratios that round to one network cost nothing, and are passed fastest by halves.
            halve = len(self.networks) == known or (known >= 4 and not halve)
        return True

    def _wanted(self) -> float:
        """In the middle of what is accepted and near; the smallest spread is what a network near the limit will have."""
        spread = min(cost.spread for cost in self.seen.values())
        return min(self.limit * (1 - TOLERANCE / 2), self.limit * (1 + TOLERANCE / 2) - spread)

    def _predicted(self) -> float | None:
        scale = self.predict(self.last) / self.seen[self.last].value
        return smallest(self.predict, self._wanted() * scale, self.low, self.high)

    def _interpolated(self) -> float | None:
        low, high = self.seen[self.low].value, self.seen[self.high].value
        return self.low + (self.high - self.low) * (low - self._wanted()) / (low - high) if low > high else None

    def correct(self, cost: Cost) -> None:
        """What `high` costs, measured again."""
        network = network_of(self.pruner, self.high)
        self.networks[network] = cost
        self.seen = {ratio: cost if network_of(self.pruner, ratio) == network else old for ratio, old in self.seen.items()}

    def step_back(self) -> bool:
        """Make the next narrower network that was within the limit the `high` one; whether there is one."""
        good = [ratio for ratio, old in self.seen.items() if ratio > self.high and old.within(self.limit)]
        if good:
            self.low = self.last = self.high
            self.high = min(good)
        return bool(good)
