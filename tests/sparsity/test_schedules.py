"""Schedules against the formulas of the paper."""

import pytest

from compress.sparsity.schedules import plan, sparsity_at


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_the_curves(progress: float) -> None:
    # Zhu and Gupta 2017, equation 1, with t0 = 100, n = 40, delta t = 50, s_i = 0.2, s_f = 0.9.
    t0, n, delta, initial, final = 100, 40, 50, 0.2, 0.9
    t = t0 + progress * n * delta
    cubic = final + (initial - final) * (1 - (t - t0) / (n * delta)) ** 3
    assert sparsity_at("cubic", progress, final, initial) == pytest.approx(cubic)
    assert sparsity_at("linear", progress, final, initial) == pytest.approx(initial + progress * (final - initial))
    assert sparsity_at("constant", progress, final, initial) == final


def test_values_by_hand() -> None:
    assert [sparsity_at("cubic", share, 0.8) for share in (0, 0.5, 1)] == pytest.approx([0, 0.7, 0.8])
    assert [sparsity_at("linear", share, 0.8) for share in (0, 0.5, 1)] == pytest.approx([0, 0.4, 0.8])


def test_a_plan_spreads_the_prunings_over_three_quarters() -> None:
    prunings = plan("linear", 0.8, 1000)
    assert len(prunings) == 16
    assert list(prunings)[:3] == [0, 46, 93]  # 750 / 16 apart
    assert list(prunings)[-1] == 703
    assert list(prunings.values()) == pytest.approx([0.05 * k for k in range(1, 17)])
    assert plan("constant", 0.8, 1000) == {0: 0.8}


@pytest.mark.parametrize("steps", [1, 2, 5, 21, 22])
def test_short_training_prunes_less_often_and_still_arrives(steps: int) -> None:
    prunings = plan("cubic", 0.9, steps)
    assert next(iter(prunings)) == 0
    assert max(prunings) < max(1, 0.75 * steps + 0.5)
    assert list(prunings.values())[-1] == pytest.approx(0.9)
    assert len(prunings) == min(16, max(1, round(0.75 * steps)))
