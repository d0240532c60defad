"""The search in measured costs: a wrong prediction costs measurements but never the answer."""

import pytest
from budgets.curves import COSTS, PREDICTIONS, Curve, Widths

from compress.budgets import Answer, Budget, Cost
from compress.budgets.measured import TRIALS, search_measurements
from compress.errors import UserError


def search(cost: Curve, predict: Curve, budget: Budget, pruner: Widths) -> tuple[Answer, list[int]]:
    """The answer, and the units removed from each network that was measured."""
    measured = []

    def measure(ratio: float) -> Cost:
        measured.append(pruner.removed(ratio))
        return Cost(cost(1 - measured[-1] / pruner.units))

    return search_measurements(budget, pruner, cost(1), predict, measure), measured


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("curve", COSTS)
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("units", [16, 64, 500])
def test_however_wrong_the_prediction_the_answer_was_measured_and_is_near(
    prediction: str, curve: str, fraction: float, units: int
) -> None:
    pruner, cost = Widths(units), COSTS[curve]
    answer, measured = search(cost, PREDICTIONS[prediction], Budget("latency", fraction, True), pruner)
    gone = pruner.removed(answer.ratio)
    assert (answer.baseline, answer.limit) == (10, pytest.approx(fraction * 10))
    assert answer.cost == cost(1 - gone / units) <= answer.limit
    one_more = cost(1 - (gone - 1) / units)
    assert answer.cost >= 0.95 * answer.limit or one_more > answer.limit  # the network allows no nearer one
    assert len(measured) == len(set(measured)) <= TRIALS  # no network twice


def test_a_right_prediction_needs_one_measurement_beside_the_ends() -> None:
    cost = COSTS["quadratic with overhead"]
    _, measured = search(cost, lambda ratio: cost(1 - ratio), Budget("latency", 5, False), Widths())
    assert len(measured) == 3
    scaled = search(cost, lambda ratio: 7 * cost(1 - ratio), Budget("latency", 5, False), Widths())[1]
    assert scaled == measured


def test_a_measured_budget_that_is_met_already_cuts_nothing() -> None:
    answer, measured = search(COSTS["linear"], lambda ratio: 1, Budget("latency", 10, False), Widths())
    assert answer == Answer(0.0, 10, 10, 10)
    assert measured == [63, 0]


def test_a_measured_budget_out_of_reach_was_measured_at_the_narrowest() -> None:
    with pytest.raises(UserError) as error:
        search(COSTS["quadratic with overhead"], lambda ratio: 0, Budget("latency", 0.1, True), Widths())
    assert str(error.value) == (
        "the target latency = 1 ms cannot be reached: with every group at its narrowest it is 1.002 ms "
        "(round_to 1; 1 of 2 groups are protected)"
    )


def test_a_search_that_ran_out_of_trials_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.budgets.measured.TRIALS", 3)
    answer, _ = search(COSTS["linear"], PREDICTIONS["much too steep"], Budget("latency", 0.5, True), Widths(500))
    assert answer.gave_up_after == 3
    assert answer.cost < 0.95 * answer.limit
    coarse, _ = search(COSTS["linear"], PREDICTIONS["right for one"], Budget("latency", 0.6, True), Widths(2))
    assert (coarse.cost, coarse.gave_up_after) == (5, None)  # there are two networks: none is nearer
