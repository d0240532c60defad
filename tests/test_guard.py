"""The search for a fast network within a bound: on networks that are only numbers, and on one with a known culprit."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from compress import guard
from compress.guard import Bound, Guarded, Layers, Trial, _best_buy, search


class World:
    """Networks as numbers: each layer costs points while it is in integers, and milliseconds while it is in float.

    Args:
        lost: layer -> points that its integers cost.
        slower: layer -> milliseconds that its floats cost.
    """

    def __init__(self, lost: dict[str, float], slower: dict[str, float] | None = None, seconds: float = 1.0) -> None:
        self.lost, self.slower, self.seconds = lost, slower or dict.fromkeys(lost, 0.1), seconds
        self.measured: list[Layers] = []

    def measure(self, in_float: Layers) -> Trial:
        self.measured.append(in_float)
        drop = sum(points for layer, points in self.lost.items() if layer not in in_float) / 100
        extra = sum(self.slower[layer] for layer in in_float)
        return Trial(in_float, 0.9 - drop, drop, 1 + extra, extra, self.seconds)

    def propose(self, in_float: Layers) -> Sequence[str]:
        """In the order in which they were written down."""
        return [layer for layer in self.lost if layer not in in_float]

    def search(self, points: float, **options: object) -> Guarded:
        return search(self.measure, self.propose, Bound(points / 100, options.pop("seconds", None)), 0.9, **options)


def test_with_everything_in_integers_within_the_bound_nothing_else_is_tried() -> None:
    world = World({"a": 0.2, "b": 0.3})
    found = world.search(0.5)
    assert (found.chosen.in_float, found.met) == ((), True)
    assert world.measured == [()]
    assert found.summary() == (
        "at most 0.5 points may be lost: 0.50 points lost on the validation data with all layers in integers; 1 network tried"
    )


def test_the_culprit_goes_back_first_and_alone() -> None:
    world = World({"a": 0.1, "culprit": 5.0, "b": 0.1, "c": 0.1, "d": 0.1})
    found = world.search(0.5)
    assert (found.chosen.in_float, found.met) == (("culprit",), True)
    assert world.measured == [(), ("a",), ("culprit",), ("b",)]
    assert found.chosen.drop == pytest.approx(0.004)


def test_the_points_for_a_millisecond_decide_among_the_proposals() -> None:
    world = World({"dear": 2.0, "cheap": 1.5, "rest": 0.0}, {"dear": 1.0, "cheap": 0.1, "rest": 0.1})
    assert world.search(2.0).chosen.in_float == ("cheap",)
    assert world.search(1.5).chosen.in_float == ("dear",)  # which alone is enough, and found in the same round


def test_what_is_bought() -> None:
    def option(score: float, extra_ms: float) -> Trial:
        return Trial((), score, 0.0, 1.0, extra_ms, 1.0)

    current, cheap, dear = option(0.5, 0.1), option(0.6, 0.2), option(0.65, 0.4)
    assert _best_buy(current, [dear, cheap], 0.01) is cheap  # 1 against 0.5 for a millisecond
    free = option(0.51, 0.05)
    assert _best_buy(current, [dear, cheap, free], 0.02) is cheap  # faster is noise, and taken as 0.02 ms: a rate of 0.5
    worse, worst = option(0.45, 0.2), option(0.4, 0.2)
    assert _best_buy(current, [worst, worse], 0.01) is worst  # none gains: the first, whose cheap error is largest


def test_a_drop_of_the_bound_itself_is_within_it() -> None:
    assert 0.93 - 0.925 > 0.005
    assert Bound(0.005).holds(Trial((), 0.925, 0.93 - 0.925, 1.0, 0.0, 1.0))


def test_a_layer_that_did_not_have_to_go_back_returns_to_integers() -> None:
    """Alone neither brings anything, and the first proposal is taken; then it turns out that it was not needed."""

    class Late(World):
        def measure(self, in_float: Layers) -> Trial:
            trial = super().measure(in_float)
            drop = 0.0 if {"b", "d"} <= set(in_float) else 0.03
            return Trial(in_float, 0.9 - drop, drop, trial.latency_ms, trial.extra_ms, 1.0)

    world = Late(dict.fromkeys("abcdefgh", 0.0))
    found = world.search(1.0)
    assert (set(found.chosen.in_float), found.met) == ({"b", "d"}, True)


def test_a_bound_that_cannot_be_met_gives_the_best_score() -> None:
    class Broken(World):
        def measure(self, in_float: Layers) -> Trial:
            trial = super().measure(in_float)
            return Trial(in_float, trial.score - 0.1, trial.drop + 0.1, trial.latency_ms, trial.extra_ms, 1.0)

    world = Broken({"a": 3.0, "b": 1.0, "c": 2.0})
    found = world.search(0.5)
    assert (found.met, found.ended) == (False, "every proposal was tried")
    assert set(found.chosen.in_float) == {"a", "c"}  # one layer stays in integers
    assert found.chosen.score == max(trial.score for trial in found.trials)


def test_no_network_is_begun_that_would_end_after_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    class Slow(World):
        def measure(self, in_float: Layers) -> Trial:
            nonlocal now
            now += 10
            return super().measure(in_float)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    world = Slow({"a": 3.0, "b": 1.0, "c": 2.0}, seconds=10.0)
    found = world.search(0.5, seconds=35)
    assert world.measured == [(), ("a",), ("b",)]
    assert (found.met, found.ended) == (False, "the time budget of 35 s is used up")
    assert found.summary() == (
        "not within 0.5 points, the time budget of 35 s is used up; the best: "
        "3.00 points lost on the validation data with a in float; 3 networks tried"
    )
    assert found.chosen.in_float == ("a",)
    assert Slow({"a": 3.0, "b": 1.0}, seconds=10.0).search(0.5, seconds=1).chosen.in_float == ()
    late = Slow({"a": 3.0, "b": 1.0}).search(0.5, seconds=1, begun=now - 5)
    assert late.chosen.in_float == ()  # there is always an answer


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    world, path = World({"a": 3.0, "b": 1.0, "c": 2.0, "d": 0.0}), tmp_path / "log"

    class Killed(World):
        def measure(self, in_float: Layers) -> Trial:
            if len(self.measured) == 3:
                raise KeyboardInterrupt
            return super().measure(in_float)

    with pytest.raises(KeyboardInterrupt):
        Killed(world.lost).search(0.5, history=guard._Log(path))
    with path.open("a") as lines:
        lines.write('\n{"in_float": ["a", "b')  # killed while it was written
    resumed, fresh = World(world.lost), World(world.lost)
    found = resumed.search(0.5, history=guard._Log(path))
    whole = fresh.search(0.5)
    assert resumed.measured == fresh.measured[3:]
    assert found == whole
    again = World(world.lost)
    assert again.search(0.5, history=guard._Log(path)) == whole
    assert again.measured == []


def test_the_time_of_an_interrupted_search_counts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = guard._Log(path)
    log.add(Trial((), 0.5, 0.4, 1.0, 0.0, 50.0))
    assert guard._Log(path).seconds == 50
    world = World({"a": 3.0, "b": 1.0})
    assert world.search(0.5, seconds=90, history=guard._Log(path)).ended == "the time budget of 90 s is used up"
    assert world.measured == []


def test_the_curve_is_plain_data() -> None:
    found = World({"a": 3.0, "b": 0.1, "c": 0.0}).search(0.5)
    plain = json.loads(json.dumps(found.to_dict()))
    assert [trial["in_float"] for trial in plain["trials"]] == [[], ["a"], ["b"], ["c"]]
    assert plain["chosen"]["in_float"] == ["a"]
    assert plain["trials"][1]["drop"] == pytest.approx(0.001)
