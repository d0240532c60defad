"""Budgets: how they are written, that they are met, and that a wrong prediction costs measurements but never the answer."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import budgets
from compress.budgets import Answer, Budget, Cost, Gauge, parse, ratio_for, steady
from compress.errors import UserError
from compress.export import export_onnx, signature
from compress.measure import count_macs, count_parameters, open_onnx
from compress.measure.layers import LayerTable, Shape
from compress.pruning.channels import ChannelPruner, Settings
from compress.testing.architectures import build


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("macs=0.5", Budget("macs", 0.5, True)),
        (" macs = 0.5 ", Budget("macs", 0.5, True)),
        ("params=1e-3", Budget("params", 0.001, True)),
        ("size=.25", Budget("size", 0.25, True)),
        ("latency=0.999", Budget("latency", 0.999, True)),
        ("macs=3000", Budget("macs", 3000, False)),
        ("macs=2e6", Budget("macs", 2e6, False)),
        ("macs=3k", Budget("macs", 3e3, False)),
        ("macs=3M", Budget("macs", 3e6, False)),
        ("macs=1.5g", Budget("macs", 1.5e9, False)),
        ("macs=0.5G", Budget("macs", 5e8, False)),  # with a unit it is no fraction
        ("params=1.2M", Budget("params", 1.2e6, False)),
        ("size=900B", Budget("size", 900, False)),
        ("size=5 MB", Budget("size", 5e6, False)),
        ("size=5kb", Budget("size", 5e3, False)),
        ("size=0.1GB", Budget("size", 1e8, False)),
        ("latency=3ms", Budget("latency", 3, False)),
        ("latency=500us", Budget("latency", 0.5, False)),
        ("latency=0.2s", Budget("latency", 200, False)),
    ],
)
def test_a_budget_as_text(text: str, expected: Budget) -> None:
    budget = parse(text)
    assert (budget.kind, budget.fraction) == (expected.kind, expected.fraction)
    assert budget.value == pytest.approx(expected.value, rel=1e-12)


NUMBERS = "target must be a fraction of the baseline in (0, 1), such as "
MACS = f"{NUMBERS}macs=0.5, or macs=3000 or macs=3k or macs=3m; got "
SIZE = f"{NUMBERS}size=0.5, or size=3b or size=3kb or size=3mb; got "
LATENCY = f"{NUMBERS}latency=0.5, or latency=3us or latency=3ms or latency=3s; got "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "target must be macs, params, size or latency, got ''. Known: macs, params, size, latency."),
        ("flops=0.5", "target must be macs, params, size or latency, got 'flops=0.5'. Known: macs, params, size, latency."),
        ("latncy=3ms", "target must be macs, params, size or latency, got 'latncy=3ms'. Did you mean 'latency'?"),
        ("0.5", "target must be macs, params, size or latency, got '0.5'. Known: macs, params, size, latency."),
        *(
            (f"macs={value}", f"{MACS}'macs={value}'")
            for value in ("", "0", "-3", "1", "2", "999", "nan", "inf", ".", "1.2.3", "5T", "3ms", "0M")
        ),
        *((f"size={value}", f"{SIZE}'size={value}'") for value in ("5", "5000", "5M", "5ms", "0MB")),
        *((f"latency={value}", f"{LATENCY}'latency={value}'") for value in ("3", "3min", "3000", "fast", "-1ms")),
    ],
)
def test_what_a_wrong_budget_is_told(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text)
    assert str(error.value) == message


def test_the_message_names_what_was_asked_for() -> None:
    with pytest.raises(UserError) as error:
        parse("params=2", "prune_channels: target")
    assert str(error.value) == (
        "prune_channels: target must be a fraction of the baseline in (0, 1), such as params=0.5, or params=3000 or params=3k "
        "or params=3m; got 'params=2'"
    )


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("macs", 49e6, "49 MMACs"),
        ("macs", 123_456, "0.1235 MMACs"),
        ("macs", 1728, "1728 MACs"),
        ("params", 11.17e6, "11.17 M parameters"),
        ("params", 85, "85 parameters"),
        ("size", 44.7e6, "44.7 MB"),
        ("size", 2048, "2048 bytes"),
        ("latency", 2.34567, "2.346 ms"),
        ("latency", 0.0125, "0.0125 ms"),
    ],
)
def test_a_cost_as_text(kind: str, value: float, text: str) -> None:
    assert Budget(kind, 0.5, True).show(value) == text


def test_a_fraction_is_of_the_baseline_and_a_number_is_not() -> None:
    assert parse("size=0.25").limit(8000) == 2000
    assert parse("size=3kb").limit(8000) == 3000


class Two(nn.Module):
    """Images (batch, 3, 4, 4): convolutions to 16 and to 32 channels of one pixel's width, and a linear layer to 5 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


X = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)),)


def two(**settings: object) -> tuple[nn.Module, ChannelPruner]:
    model = Two().eval()
    return model, ChannelPruner(model, X, Settings(**{"round_to": 1, **settings}))


def macs(a: int, b: int) -> int:
    """On 16 pixels, then on none."""
    return 16 * (3 * a + a * b) + 5 * b


def parameters(a: int, b: int) -> int:
    return 4 * a + (a + 1) * b + 5 * b + 5


@pytest.mark.parametrize("target", ["macs=0.5", "macs=0.1", "macs=2k", "params=0.5", "params=0.3k", "params=0.98"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_counts_are_met_and_one_channel_more_would_not_do(target: str, ranking: str) -> None:
    model, pruner = two(ranking=ranking)
    budget = parse(target)
    count, baseline = (macs, 9120) if budget.kind == "macs" else (parameters, 773)
    assert baseline == count(16, 32) == (count_macs(model, X) if budget.kind == "macs" else count_parameters(model))
    answer = ratio_for(budget, pruner, model, X)
    cut = pruner.cut(answer.ratio)
    limit = budget.value * baseline if budget.fraction else budget.value
    assert (answer.baseline, answer.limit) == (baseline, limit)
    assert answer.cost == count(cut.a.out_channels, cut.b.out_channels) <= limit
    before = pruner.cut(answer.ratio - 1e-3)  # the search ends at a thousandth
    assert count(before.a.out_channels, before.b.out_channels) > limit


@pytest.mark.parametrize("target", ["macs=9121", "macs=0.9999", "params=1k"])
def test_a_budget_that_is_met_already_cuts_nothing_or_next_to_nothing(target: str) -> None:
    model, pruner = two()
    answer = ratio_for(parse(target), pruner, model, X)
    cut = pruner.cut(answer.ratio)
    if target == "macs=0.9999":
        assert (cut.a.out_channels, cut.b.out_channels) == (16, 31)  # 1/32 of both, rounded: one channel of b
    else:
        assert (answer.ratio, cut.a.out_channels, cut.b.out_channels) == (0.0, 16, 32)


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        (
            "macs=0.1",
            {"round_to": 8},
            "the target macs = 912 MACs cannot be reached: with every group at its narrowest it is 1448 MACs "
            "(round_to 8; 1 of 3 groups are protected)",
        ),
        (
            "params=0.1",
            {"exclude": ("b",), "round_to": 4},
            "the target params = 77 parameters cannot be reached: with every group at its narrowest it is 341 parameters "
            "(round_to 4; 2 of 3 groups are protected)",
        ),
    ],
)
def test_a_budget_out_of_reach_says_how_close_one_can_get(target: str, settings: dict[str, object], message: str) -> None:
    model, pruner = two(**settings)
    with pytest.raises(UserError) as error:
        ratio_for(parse(target), pruner, model, X)
    assert str(error.value) == message


def test_a_budget_just_within_reach_leaves_one_channel_of_each() -> None:
    model, pruner = two()
    assert ratio_for(Budget("params", 16, False), pruner, model, X).cost == parameters(1, 1) == 16
    with pytest.raises(UserError, match="it is 16 parameters"):
        ratio_for(Budget("params", 15, False), pruner, model, X)


# The search in measured costs


class Widths:
    """Stands for a pruner of one group with `units` units; keeps, like a real one, whole units."""

    def __init__(self, units: int = 64) -> None:
        self.units, self.settings = units, SimpleNamespace(round_to=1)
        self.groups = [SimpleNamespace(fixed=None), SimpleNamespace(fixed="an output of the model")]

    def removed(self, ratio: float) -> int:
        return min(int(ratio * self.units), self.units - 1)

    def cuts(self, ratio: float) -> list[tuple[SimpleNamespace, tuple[int, ...]]]:
        gone = self.removed(ratio)
        return [(SimpleNamespace(id="a"), tuple(range(gone)))] if gone else []


Curve = Callable[[float], float]
COSTS: dict[str, Curve] = {  # milliseconds, of the share that is left
    "linear": lambda left: 10 * left,
    "quadratic with overhead": lambda left: 1 + 9 * left**2,
    "root": lambda left: 10 * left**0.5,
    "flat at first": lambda left: min(10, 12 * left),
}
PREDICTIONS: dict[str, Curve] = {  # of the ratio
    "right for one": lambda ratio: 10 * (1 - ratio),
    "a hundred times too large": lambda ratio: 1000 * (1 - ratio),
    "constant": lambda ratio: 5,
    "zero": lambda ratio: 0,
    "rising": lambda ratio: 1 + ratio,
    "much too steep": lambda ratio: (1 - ratio) ** 8,
    "much too flat": lambda ratio: (1 - ratio) ** 0.1,
    "a step at the start": lambda ratio: 10 if ratio < 0.05 else 1,
    "a step at the end": lambda ratio: 10 if ratio < 0.95 else 1,
}


def search(cost: Curve, predict: Curve, budget: Budget, pruner: Widths) -> tuple[Answer, list[int]]:
    """The answer, and the units removed from each network that was measured."""
    measured = []

    def measure(ratio: float) -> Cost:
        measured.append(pruner.removed(ratio))
        return Cost(cost(1 - measured[-1] / pruner.units))

    return budgets._measured(budget, pruner, cost(1), predict, measure), measured


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
    assert len(measured) == len(set(measured)) <= budgets.TRIALS  # no network twice


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
    monkeypatch.setattr(budgets, "TRIALS", 3)
    answer, _ = search(COSTS["linear"], PREDICTIONS["much too steep"], Budget("latency", 0.5, True), Widths(500))
    assert answer.gave_up_after == 3
    assert answer.cost < 0.95 * answer.limit
    coarse, _ = search(COSTS["linear"], PREDICTIONS["right for one"], Budget("latency", 0.6, True), Widths(2))
    assert (coarse.cost, coarse.gave_up_after) == (5, None)  # there are two networks: none is nearer


# A clock that is not exact


def noisy_search(sigma: float, seed: int, prediction: Curve) -> tuple[Answer, float]:
    """The answer on a clock whose every timing is off by `sigma`, and what the answer really costs."""
    draws, pruner = np.random.default_rng(seed), Widths()
    budget, baseline = Budget("latency", 0.4, True), 10.0

    def true(ratio: float) -> float:
        return COSTS["quadratic with overhead"](1 - pruner.removed(ratio) / pruner.units)

    def measure(ratio: float) -> Cost:
        return steady(lambda: true(ratio) * (1 + sigma * draws.standard_normal()), 4.0)

    answer = budgets._measured(budget, pruner, baseline, prediction, measure, noisy=True)
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
    answer = budgets._measured(Budget("latency", 5, False), pruner, 10, lambda ratio: 10 * (1 - ratio), measure, noisy=True)
    assert answer.cost == 10 * (1 - pruner.removed(answer.ratio) / 64) <= 5
    assert answer.cost >= 4.5
    assert max(times.values()) >= 2


def test_a_limit_that_was_met_by_luck_alone_is_out_of_reach() -> None:
    costs = iter([0.9, 9.0, *[1.2] * 20])
    pruner = Widths(2)
    with pytest.raises(UserError) as error:
        budgets._measured(
            Budget("latency", 1, False), pruner, 9, lambda ratio: 1, lambda ratio: Cost(next(costs), 0.02), noisy=True
        )
    assert str(error.value) == (
        "the target latency = 1 ms cannot be reached: with every group at its narrowest it is 1.2 ms +- 0.02 ms "
        "(round_to 1; 1 of 2 groups are protected)"
    )


# Files


class Plain(nn.Module):
    """Images (batch, 3, 8, 8) to 5 logits; its weights are most of its file."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 100, 3), nn.Conv2d(100, 100, 3), nn.Linear(100, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def plain() -> tuple[nn.Module, tuple[Tensor, ...], ChannelPruner]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = Plain().eval(), (torch.randn(2, 3, 8, 8),)
    return model, inputs, ChannelPruner(model, inputs, Settings(round_to=1))


def as_bytes(model: nn.Module, inputs: tuple[Tensor, ...], path: Path, names: object) -> None:
    """In place of an export, which takes seconds: four bytes for a parameter, of a model that runs."""
    model(*inputs)
    path.write_bytes(bytes(4 * count_parameters(model)))


Files = tuple[nn.Module, tuple[Tensor, ...], ChannelPruner]


def test_a_size_is_that_of_the_written_file(plain: Files, tmp_path: Path) -> None:
    model, inputs, pruner = plain
    answer = ratio_for(parse("size=0.5"), pruner, model, inputs)
    assert 4 * count_parameters(model) < answer.baseline < 4.1 * count_parameters(model)
    assert 0.95 * answer.limit <= answer.cost <= answer.limit == answer.baseline / 2
    export_onnx(pruner.cut(answer.ratio), inputs, tmp_path / "cut.onnx", signature(model, inputs))
    assert answer.cost == (tmp_path / "cut.onnx").stat().st_size


@pytest.fixture
def as_long_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file takes a millisecond for 10 kB: the runtime's clock would make a test depend on the machine."""
    monkeypatch.setattr(Gauge, "_time", lambda self, paths: [path.stat().st_size / 1e4 for path in paths])


def test_a_latency_from_layer_times_to_files(plain: Files, as_long_as_large: None) -> None:
    model, inputs, pruner = plain
    table = LayerTable()
    answer = ratio_for(parse("latency=0.5"), pruner, model, inputs, table=table)
    assert 0.95 * answer.limit <= answer.cost <= answer.limit == answer.baseline / 2
    assert {shape[:3] for shape in table.entries} > {("conv", 3, 100), ("conv", 100, 100), ("linear", 100, 5)}


class Reversed(LayerTable):
    """Says that a narrow layer takes longer than a wide one."""

    def _measure(self, shape: Shape) -> float:
        return 1 / (shape[1] * shape[2])


@pytest.mark.parametrize("target", ["latency=0.25", "latency=0.5", "latency=30ms"])
def test_a_latency_is_met_even_with_a_table_that_is_the_wrong_way_round(
    target: str, plain: Files, as_long_as_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "export_onnx", as_bytes)
    model, inputs, pruner = plain
    answer = ratio_for(parse(target), pruner, model, inputs, table=Reversed())
    assert answer.baseline == 4 * count_parameters(model) / 1e4
    assert 0.95 * answer.limit <= answer.cost <= answer.limit
    assert answer.cost == pytest.approx(4 * count_parameters(pruner.cut(answer.ratio)) / 1e4)


def test_a_latency_is_the_median_of_calls_with_one_sample(plain: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def time(calls: dict[str, Callable[[], np.ndarray]], **limits: float) -> dict[str, list[float]]:
        seen["outputs"] = [call().shape for call in calls.values()]
        return {name: [1.0, 9.0, 2.0] for name in calls}

    def opened(path: Path, threads: int) -> object:
        seen["threads"] = threads
        return open_onnx(path, threads=threads)

    monkeypatch.setattr(budgets, "time_interleaved", time)
    monkeypatch.setattr(budgets, "open_onnx", opened)
    model, inputs, pruner = plain
    assert Gauge(model, pruner, inputs, tmp_path, 2).baseline_latency == 2
    assert seen == {"outputs": [(1, 5)], "threads": 2}


def test_a_machine_that_slows_down_changes_nothing_for_a_fraction(plain: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, pruner = plain
    slowness = iter(np.geomspace(1, 30, 1000))

    def time(self: Gauge, paths: list[Path]) -> list[float]:
        factor = next(slowness)
        return [factor * path.stat().st_size / 1e4 for path in paths]

    monkeypatch.setattr(budgets, "export_onnx", as_bytes)
    monkeypatch.setattr(Gauge, "_time", time)
    answer = ratio_for(parse("latency=0.5"), pruner, model, inputs, table=Reversed())
    true = count_parameters(pruner.cut(answer.ratio)) / count_parameters(model)
    assert 0.475 <= true <= 0.5
    assert answer.cost / answer.baseline == pytest.approx(true)


# Groups of which nothing can be cut after all


class Stubborn(Plain):
    """Does not run with fewer than 100 channels in its first layer, of which its operators show nothing."""

    def forward(self, x: Tensor) -> Tensor:
        if self.a(x).shape[1] != 100:
            raise RuntimeError("where are my channels?")
        return super().forward(x)


TARGETS = ["macs=0.9", "params=0.9", "size=0.9", "latency=0.9"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["stubborn", "SegFormer"])
def test_a_network_that_breaks_when_it_is_cut_is_never_measured(
    target: str, name: str, as_long_as_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "export_onnx", as_bytes)
    model, inputs = build(name) if name != "stubborn" else (Stubborn().eval(), (torch.randn(2, 3, 8, 8),))
    pruner = ChannelPruner(model, inputs, Settings(round_to=4))
    with pytest.raises(RuntimeError):
        pruner.cut(0.9)(*inputs)
    answer = ratio_for(parse(target), pruner, model, inputs, table=Reversed())
    assert 0.8 * answer.limit <= answer.cost <= answer.limit
    pruner.cut(answer.ratio)(*inputs)
    reasons = {group.name: group.fixed for group in pruner.groups if group.fixed is not None}
    if name == "stubborn":
        assert reasons == {
            "a": "cutting it breaks the forward at 'a' (where are my channels?)",
            "head": "an output of the model",
        }
