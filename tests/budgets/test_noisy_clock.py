"""A clock that is not exact: no answer is a lucky draw."""

import numpy as np
import pytest
from budgets.curves import COSTS, PREDICTIONS, Curve, Widths

from compress.budgets import Answer, Budget, Cost, steady
from compress.budgets.measured import search_measurements
from compress.errors import UserError


def noisy_search(sigma: float, seed: int, prediction: Curve) -> tuple[Answer, float]:
    """The answer on a clock whose every timing is off by `sigma`, and what the answer really costs."""
    draws, pruner = np.random.default_rng(seed), Widths()
    budget, baseline = Budget("latency", 0.4, True), 10.0

    def true(ratio: float) -> float:
        return COSTS["quadratic with overhead"](1 - pruner.removed(ratio) / pruner.units)

    def measure(ratio: float) -> Cost:
        return steady(lambda: true(ratio) * (1 + sigma * draws.standard_normal()), 4.0)

    answer = search_measurements(budget, pruner, baseline, prediction, measure, noisy=True)
    return answer, true(answer.ratio)


@pytest.mark.parametrize("prediction", ["right for one", "much too steep", "rising"])
@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_the_answer_is_no_lucky_draw(sigma: float, prediction: str) -> None:
    found = [noisy_search(sigma, seed, PREDICTIONS[prediction]) for seed in range(150)]
    over = [true > 1.05 * answer.limit for answer, true in found]
    under = [true < 0.85 * answer.limit for answer, true in found]
    assert np.mean(over) <= 0.02
    assert np.mean(under) <= 0.25  # on a clock that is off by a tenth, near means near
    assert all(answer.spread > 0 for answer, _ in found)
    assert all(answer.cost <= answer.limit for answer, _ in found)


def test_a_network_is_timed_until_it_is_clear_on_which_side_of_the_limit_it_is() -> None:
    def draws(middle: float) -> int:
        """How many are taken, of numbers that are off by 0.2 by turns."""
        taken: list[float] = []

        def draw() -> float:
            taken.append(middle + (0.2 if len(taken) % 2 else -0.2))
            return taken[-1]

        steady(draw, 1.0)
        return len(taken)

    assert [draws(middle) for middle in (5.0, 0.2, 1.0)] == [3, 3, 12]
    # Mean 4.9833, standard deviation 0.0577, t of three draws 4.303: 4.303 * 0.0577 / sqrt(3).
    values = iter([4.95, 5.05, 4.95])
    cost = steady(lambda: next(values), 1.0)
    assert (cost.value, cost.spread) == (pytest.approx(4.98333, abs=1e-5), pytest.approx(0.14343, abs=1e-5))


def test_a_lucky_network_gives_way_to_a_narrower_one() -> None:
    times: dict[int, int] = {}

    def measure(ratio: float) -> Cost:
        gone = pruner.removed(ratio)
        times[gone] = times.get(gone, 0) + 1
        true = 10 * (1 - gone / 64)
        return Cost(0.9 * true if times[gone] == 1 else true, 0.01)  # the first time is always lucky

    pruner = Widths()
    answer = search_measurements(Budget("latency", 5, False), pruner, 10, lambda ratio: 10 * (1 - ratio), measure, noisy=True)
    assert answer.cost == 10 * (1 - pruner.removed(answer.ratio) / 64) <= 5
    assert answer.cost >= 4.5
    assert max(times.values()) >= 2


def test_a_limit_that_was_met_by_luck_alone_is_out_of_reach() -> None:
    costs = iter([0.9, 9.0, *[1.2] * 20])
    pruner = Widths(2)
    with pytest.raises(UserError) as error:
        search_measurements(
            Budget("latency", 1, False), pruner, 9, lambda ratio: 1, lambda ratio: Cost(next(costs), 0.02), noisy=True
        )
    assert str(error.value) == (
        "the target latency = 1 ms cannot be reached: with every group at its narrowest it is 1.2 ms +- 0.02 ms "
        "(round_to 1; 1 of 2 groups are protected)"
    )
