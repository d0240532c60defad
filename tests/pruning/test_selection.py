"""How many units stay, and which, with numbers that a pencil gives."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.pruning.groups import Group, Member, find_groups
from compress.pruning.selection import isomorphic_kind, kept_units


def group(name: str, units: int, width: int = 1, also: tuple[str, ...] = ()) -> Group:
    """Units of `width` channels that the layer `name` makes, and the layers `also` with it."""
    places = np.arange(units * width).reshape(units, width)
    return Group(name, units, tuple(Member(f"{layer}.weight", 0, places, False) for layer in (name, *also)))


def kept(scores: dict[str, list[float]], ratio: float, **options: object) -> dict[str, list[int]]:
    """By name, what stays of groups that have these scores."""
    groups, values = [group(name, len(own)) for name, own in scores.items()], [torch.tensor(own) for own in scores.values()]
    found = kept_units(groups, values, ratio, **{"round_to": 1, **options})
    return dict(zip(scores, found, strict=True))


# Divided by their means, 25 and 2: 0.4, 0.8, 1.2, 1.6 and 0.5, 0.5, 0.5, 2.5.
TWO = {"a": [10.0, 20.0, 30.0, 40.0], "b": [1.0, 1.0, 1.0, 5.0]}


def test_local_takes_the_same_share_of_every_group() -> None:
    assert kept(TWO, 0.5) == {"a": [2, 3], "b": [0, 3]}
    assert kept(TWO, 0.25) == {"a": [1, 2, 3], "b": [0, 1, 3]}
    assert kept({"a": [3.0, 9.0, 1.0, 8.0, 2.0]}, 0.4) == {"a": [0, 1, 3]}  # in order, not by score


def test_global_compares_scores_over_their_groups_mean() -> None:
    assert kept(TWO, 0.5, ranking="global") == {"a": [1, 2, 3], "b": [3]}  # 2.5, 1.6, 1.2, 0.8
    assert kept(TWO, 0.25, ranking="global") == {"a": [1, 2, 3], "b": [0, 1, 3]}  # the least is the 0.4 of a
    larger = {"a": TWO["a"], "b": [1000 * score for score in TWO["b"]]}
    assert kept(larger, 0.5, ranking="global") == kept(TWO, 0.5, ranking="global")


# Over their means, 4.5 and 3: 0.2, 0.4, 0.7, 0.9, 1.1, 1.3, 1.6, 1.8 and 0.3, 0.3, 0.3, 3.
UNEVEN = {"a": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], "b": [1.0, 1.0, 1.0, 9.0]}


@pytest.mark.parametrize(
    ("floor", "a", "b"),
    [
        (0.1, [3, 4, 5, 6, 7], [3]),  # the six largest of all
        (0.25, [3, 4, 5, 6, 7], [3]),  # a quarter of b is one
        (0.26, [4, 5, 6, 7], [0, 3]),  # and a little more is two: what b keeps is taken from a
        (0.5, [4, 5, 6, 7], [0, 3]),
        (0.75, [2, 3, 4, 5, 6, 7], [0, 1, 3]),  # three quarters of each are more than half of all, and the floor counts
        (1.0, [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3]),
    ],
)
def test_the_floor_holds_and_what_it_saves_is_taken_elsewhere(floor: float, a: list[int], b: list[int]) -> None:
    assert kept(UNEVEN, 0.5, ranking="global", floor=floor) == {"a": a, "b": b}


def test_scores_that_are_comparable_are_compared_as_they_are() -> None:
    assert kept(TWO, 0.25, ranking="global", comparable=True) == {"a": [0, 1, 2, 3], "b": [0, 3]}  # the least are the 1 of b
    # LAMP of squared norms that are equal, and of 7, 3, 2.5, 1.4: the four largest are 1, 1, 1/2, 1/3.
    lamp = {"a": [1.0, 1 / 2, 1 / 3, 1 / 4], "b": [1.0, 0.3, 0.2, 0.1]}
    for ranking in ("global", "isomorphic"):
        assert kept(lamp, 0.5, ranking=ranking, comparable=True) == {"a": [0, 1, 2], "b": [0]}
    assert kept(lamp, 0.5, ranking="global") == {"a": [0, 1], "b": [0, 1]}  # over their means, 0.52 and 0.4


SIZES = (10, 20, 24, 30, 72)
SHARP = [torch.linspace(0, 1, units) ** (4 * place) for place, units in enumerate(SIZES)]


def left(ratio: float, **options: object) -> list[int]:
    """How many stay of groups of these sizes, the later ones with ever fewer units of weight."""
    groups = [group(f"layer{units}", units) for units in SIZES]
    return [len(own) for own in kept_units(groups, SHARP, ratio, **options)]


@pytest.mark.parametrize("stagger", [False, True])
@pytest.mark.parametrize("round_to", [1, 4, 8])
@pytest.mark.parametrize("floor", [0.0, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("ranking", ["global", "isomorphic"])
def test_every_group_is_above_the_floor_and_narrows_with_the_ratio(
    ranking: str, floor: float, round_to: int, stagger: bool
) -> None:
    before = list(SIZES)
    for percent in range(0, 100, 5):
        found = left(percent / 100, ranking=ranking, floor=floor, round_to=round_to, stagger=stagger)
        for own, units, earlier in zip(found, SIZES, before, strict=True):
            assert max(1, floor * units) <= own <= earlier
            assert own == units or own % round_to == 0
        before = found


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("floor", [0.0, 0.1, 0.3])
def test_the_total_is_met(ratio: float, floor: float) -> None:
    least = sum(max(1, -(-units * int(10 * floor) // 10)) for units in SIZES)
    assert sum(left(ratio, ranking="global", round_to=1, floor=floor)) == max(round(sum(SIZES) * (1 - ratio)), least)


@pytest.mark.parametrize(
    ("units", "width", "floor", "round_to", "least"),
    [
        (24, 1, 0.5, 8, 16),  # twelve were asked for
        (24, 1, 0.3, 8, 8),
        (20, 1, 0.9, 8, 20),  # 18, and the next multiple is more than there are
        (70, 1, 0.1, 1, 7),
        (70, 1, 0.1, 8, 8),
        (8, 4, 0.3, 8, 4),  # 2.4 heads, which go in pairs
        (8, 4, 0.3, 16, 4),
    ],
)
@pytest.mark.parametrize("stagger", [False, True])
def test_the_floor_is_rounded_up(units: int, width: int, floor: float, round_to: int, least: int, stagger: bool) -> None:
    groups = [group("other", 64), group("floored", units, width)]
    scores = [torch.full((64,), 9.0), torch.cat([torch.full((1,), 1e3), torch.full((units - 1,), 1e-6)])]
    options = {"ranking": "global", "floor": floor, "round_to": round_to, "stagger": stagger}
    assert len(kept_units(groups, scores, 0.95, **options)[1]) == least


def test_isomorphic_meets_the_share_within_each_kind() -> None:
    scores = {**TWO, "c": [1.0, 2.0, 3.0, 6.0], "d": [9.0, 1.0, 1.0, 1.0]}
    first = {"a": "conv", "b": "conv", "c": "linear", "d": "linear"}
    found = kept(scores, 0.5, ranking="isomorphic", kind=lambda group: first[group.name])
    # c and d over their mean of 3: 1/3, 2/3, 1, 2 and 3, 1/3, 1/3, 1/3.
    assert found == {"a": [1, 2, 3], "b": [3], "c": [1, 2, 3], "d": [0]}
    assert kept(scores, 0.5, ranking="global")["b"] == [3]
    alone = kept(scores, 0.5, ranking="isomorphic", kind=lambda group: group.name)
    assert alone == kept(scores, 0.5)  # each a kind of its own


def test_groups_are_of_one_kind_if_the_same_types_of_layers_are_cut_in_the_same_way() -> None:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    head = [nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 7), nn.Linear(7, 3)]
    model = nn.Sequential(*block(3, 4), *block(4, 8), *block(8, 8), *head).eval()
    kind = isomorphic_kind(model)
    kinds = {group.name: kind(group) for group in find_groups(model, (torch.randn(2, 3, 8, 8),))}
    assert kinds["0"] == kinds["3"]  # widths do not matter
    # With a norm and 3x3 filters, read by 3x3 filters; by 1x1 filters; read by a linear layer; made by one.
    assert len({kinds["0"], kinds["6"], kinds["9"], kinds["12"]}) == 4


class Stages(nn.Module):
    """Two streams, of which one is added to by two convolutions and the other by three."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.short = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.long = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.short:
            x = x + layer(x).relu()
        x = self.second(x)
        for layer in self.long:
            x = x + layer(x).relu()
        return self.head(x)


def test_streams_with_more_or_fewer_layers_are_of_different_kinds() -> None:
    model = Stages().eval()
    kind = isomorphic_kind(model)
    kinds = {group.name: kind(group) for group in find_groups(model, (torch.randn(2, 3, 8, 8),)) if group.fixed is None}
    assert len(kinds) == 2
    assert kinds["first"] != kinds["second"]


@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
@pytest.mark.parametrize(
    ("ratios", "left"),
    [
        ({}, {"stage1.a": 4, "stage1.b": 4, "stage2.a": 4}),
        ({"stage1.*": 0.25}, {"stage1.a": 6, "stage1.b": 6, "stage2.a": 4}),
        ({"stage1.*": 0.25, "*.a": 0.75}, {"stage1.a": 2, "stage1.b": 6, "stage2.a": 2}),
        ({"*.a": 0.75, "stage1.*": 0.25}, {"stage1.a": 6, "stage1.b": 6, "stage2.a": 2}),  # the last that matches
        ({"stage1.a": 0.0}, {"stage1.a": 8, "stage1.b": 4, "stage2.a": 4}),
        ({"stage1.c": 0.25}, {"stage1.a": 4, "stage1.b": 6, "stage2.a": 4}),  # a layer that goes with b
        ({"stage?.a": 1.0}, {"stage1.a": 1, "stage1.b": 4, "stage2.a": 1}),
        ({"elsewhere": 0.9}, {"stage1.a": 4, "stage1.b": 4, "stage2.a": 4}),
    ],
)
def test_ratios_of_their_own_by_pattern(ranking: str, ratios: dict[str, float], left: dict[str, int]) -> None:
    groups = [group("stage1.a", 8), group("stage1.b", 8, also=("stage1.c",)), group("stage2.a", 8)]
    scores = [torch.arange(1.0, 9.0) for _ in groups]  # alike, so that one threshold halves each
    found = kept_units(groups, scores, 0.5, ranking=ranking, round_to=1, ratios=ratios)
    assert {group.name: len(own) for group, own in zip(groups, found, strict=True)} == left


@pytest.mark.parametrize("units", [9, 12, 15, 20])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_a_ratio_of_nothing_keeps_widths_that_are_no_multiple(units: int, ranking: str) -> None:
    groups, scores = [group("a", units)], [torch.rand(units)]
    assert kept_units(groups, scores, 0.5, ranking=ranking, ratios={"a": 0.0}) == [list(range(units))]
    assert kept_units(groups, scores, 0.0, ranking=ranking) == [list(range(units))]


@pytest.mark.parametrize(
    ("units", "width", "round_to", "ratio", "left"),
    [
        (8, 8, 8, 0.5, 4),  # each head is a multiple already
        (8, 64, 8, 0.9, 1),  # 0.8 heads, but at least one
        (8, 4, 8, 0.5, 4),  # heads go in pairs
        (8, 4, 8, 0.35, 6),  # 5.2 is nearer to 6
        (8, 4, 8, 0.375, 4),  # 5 is half way
        (8, 4, 8, 0.99, 2),
        (8, 12, 8, 0.4, 4),  # 24 is the least that 12 and 8 divide: in pairs too
        (8, 3, 8, 0.5, 8),  # 24 again, but of 3: all eight
        (16, 3, 8, 0.5, 8),
        (6, 4, 16, 0.5, 4),  # by fours: 3 is nearer to 4
        (3, 4, 16, 0.5, 3),  # fewer than four heads
        (8, 3, 1, 0.5, 4),
    ],
)
def test_heads_are_rounded_so_that_their_channels_are_a_multiple(
    units: int, width: int, round_to: int, ratio: float, left: int
) -> None:
    [found] = kept_units([group("heads", units, width)], [torch.arange(float(units))], ratio, round_to=round_to)
    assert found == list(range(units - left, units))
    assert left == units or left * width % round_to == 0


@pytest.mark.parametrize("ranking", ["local", "global"])
def test_of_equal_scores_the_first_stay(ranking: str) -> None:
    assert kept({"a": [1.0] * 6}, 0.5, ranking=ranking) == {"a": [0, 1, 2]}
    assert kept({"a": [2.0, 5.0, 2.0, 5.0, 2.0]}, 0.4, ranking=ranking) == {"a": [0, 1, 3]}


def test_of_equal_scores_in_two_groups_those_of_the_first_group_stay() -> None:
    assert kept({"a": [1.0] * 4, "b": [1.0] * 4}, 0.5, ranking="global") == {"a": [0, 1, 2], "b": [0]}


@pytest.mark.parametrize("scores", [torch.zeros(4), torch.full((4,), 1e-42)], ids=["zeros", "denormal numbers"])
def test_scores_without_a_mean_are_ranked_all_the_same(scores: Tensor) -> None:
    groups = [group("a", 4), group("b", 4)]
    found = kept_units(groups, [scores, torch.arange(1.0, 5.0)], 0.5, ranking="global", round_to=1)
    assert found == [[0], [1, 2, 3]]


def test_staggered_groups_narrow_one_by_one() -> None:
    groups = [group(f"layer{number}", 32) for number in range(4)]
    scores = [torch.arange(32.0) for _ in groups]
    together = {tuple(map(len, kept_units(groups, scores, ratio / 100))) for ratio in range(1, 100)}
    one_by_one = {tuple(map(len, kept_units(groups, scores, ratio / 100, stagger=True))) for ratio in range(1, 100)}
    assert together == {(width,) * 4 for width in (8, 16, 24, 32)}
    totals = sorted(map(sum, one_by_one))
    assert totals == list(range(32, 129, 8))  # every multiple of 8 on the way
    assert all(length % 8 == 0 for lengths in one_by_one for length in lengths)


def test_shares_are_of_what_a_group_had_at_first() -> None:
    scores = {"a": [4.0, 3.0, 2.0, 1.0], "b": [4.0, 3.0, 2.0, 1.0, 0.5, 0.1]}
    assert kept(scores, 0.5, wholes=[8, 6]) == {"a": [0, 1, 2, 3], "b": [0, 1, 2]}
    assert kept(scores, 0.75, wholes=[8, 8]) == {"a": [0, 1], "b": [0, 1]}
    assert kept(scores, 0.5, wholes=[8, 8], ranking="global", floor=0.5) == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
    assert kept(scores, 0.5, wholes=[8, 8], ratios={"a": 0.75}) == {"a": [0, 1], "b": [0, 1, 2, 3]}


def test_a_module_s_name_means_the_layers_inside() -> None:
    scores = {"stage1.conv": [2.0, 1.0], "stage2.conv": [2.0, 1.0]}
    assert kept(scores, 0.5, ratios={"stage1": 0.0}) == {"stage1.conv": [0, 1], "stage2.conv": [0]}
    assert kept(scores, 0.5, ratios={"stage": 0.0}) == {"stage1.conv": [0], "stage2.conv": [0]}
