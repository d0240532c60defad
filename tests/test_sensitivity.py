"""One change at a time: what it costs in accuracy, what it brings, and the plan that follows from it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import compress
from compress.artifact import Artifact
from compress.errors import CompressError, UserError
from compress.gauge import Gauge
from compress.passes.prune_channels import PruneChannels
from compress.sensitivity import Effect, Sensitivity, _suggest, sensitivity
from compress.task import Predict, Task
from compress.testing import tiny_model, tiny_task
from compress.testing.architectures import build

QUICK = {"min_runs": 3, "min_seconds": 0.01}


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take seconds: in their place the models are run, and nothing is timed."""

    def write(self: Gauge, model: nn.Module, name: str) -> Path:
        model(*self.example_inputs)
        return self.folder / name

    monkeypatch.setattr(Gauge, "write", write)
    monkeypatch.setattr(Gauge, "score", lambda self, path: None if self.judge is None else 0.5)
    monkeypatch.setattr(Gauge, "latencies_ms", lambda self, first, second: (1.0, 1.0))


class Two(nn.Module):
    """Only the first two channels of `used` reach the output; `idle` is read by zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1)
        self.head = nn.Linear(8, 2)
        with torch.no_grad():
            self.used.weight[:, 0, 0, 0] = torch.tensor([1.0, 2.0, 0.1, 0.1])
            self.head.weight.zero_()
            self.head.weight[0, 0], self.head.weight[1, 1] = 1.0, 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.used(x), self.idle(x)], 1).mean((2, 3)))


def test_a_group_that_matters_costs_and_one_that_does_not_is_suggested() -> None:
    model, x = Two().eval(), torch.randn(32, 1, 3, 3)
    wanted = model(x).argmax(1).numpy()

    def agreement(predict: Predict) -> float:
        return float((predict(x).argmax(1) == wanted).mean())

    task = Task((x[:2],), validate=agreement, evaluate=lambda predict: 1 / 0)
    found = sensitivity(model, task, PruneChannels(round_to=1), ratios=(0.5, 0.75), within=0.05, timing=QUICK)
    assert found.selected_on == "validate"
    assert found.score == 1.0
    drops = {(effect.name, effect.ratio): effect.drop for effect in found.effects}
    assert drops["used", 0.5] == drops["idle", 0.5] == drops["idle", 0.75] == 0.0
    assert drops["used", 0.75] > 0.1
    assert found.suggested == {"used": 0.5, "idle": 0.75}
    assert found.protected == {"head": "an output of the model"}
    params = {(effect.name, effect.ratio): effect.params for effect in found.effects}
    assert params["idle", 0.5] == found.params - 2 * (1 + 1 + 2)
    assert all(effect.latency_ms > 0 for effect in found.effects)


def test_layers_are_quantized_one_at_a_time() -> None:
    found = sensitivity(tiny_model(), tiny_task(), ratios=(0.5,), int8=True, timing=QUICK)
    changes = [(effect.name, effect.change) for effect in found.effects]
    assert changes == [("stem", "prune 0.50"), ("stem", "int8"), ("body", "int8"), ("head", "int8")]
    assert set(found.suggested) == {"stem"}
    assert all(effect.score is not None for effect in found.effects)


def test_without_data_nothing_is_scored_or_suggested() -> None:
    found = sensitivity(tiny_model(), Task(tiny_task().example_inputs), ratios=(0.5,), timing=QUICK)
    assert (found.selected_on, found.score) == (None, None)
    assert [(effect.score, effect.drop) for effect in found.effects] == [(None, None)]
    assert found.suggested == {"stem": 0.0}


def test_with_evaluation_data_alone_it_says_so() -> None:
    task = tiny_task()
    found = sensitivity(tiny_model(), Task(task.example_inputs, evaluate=task.evaluate), ratios=(0.5,), timing=QUICK)
    assert found.selected_on == "evaluate"


def test_suggestions() -> None:
    def effect(name: str, ratio: float | None, drop: float | None) -> Effect:
        return Effect(name, "", ratio, None if drop is None else 0.9 - drop, drop, 1.0, 0.0, 1)

    effects = [
        effect("a", 0.25, 0.0),
        effect("a", 0.5, 0.01),
        effect("a", 0.75, 0.02),
        effect("b", 0.25, 0.5),
        effect("a", None, 0.9),
    ]
    assert _suggest(effects, 0.01) == {"a": 0.5, "b": 0.0}


def test_suggestions_are_of_single_groups() -> None:
    effects = [Effect("a", "", 0.75, 0.9, 0.0, 1.0, 0.0, 1), Effect("a#2", "", 0.25, 0.4, 0.5, 1.0, 0.0, 1)]
    assert _suggest(effects, 0.01) == {"a": 0.75, "a#2": 0.0}


class Parts(nn.Module):
    """The halves of `a` are tied to layers of their own: two groups of one name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d = nn.Conv2d(3, 32, 1), nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
        self.e = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.e((self.a(x) + torch.cat([self.b(x), self.d(x)], 1)).mean((2, 3)))


def test_two_groups_of_one_layer_are_two_rows_and_two_ratios(no_files: None) -> None:
    task = Task((torch.randn(2, 3, 4, 4),), validate=lambda predict: 0.5)
    found = sensitivity(Parts().eval(), task, ratios=(0.5,))
    assert [effect.name for effect in found.effects] == ["a", "a#2"]
    assert found.suggested == {"a#1": 0.5, "a#2": 0.5}
    cut = compress.apply(PruneChannels(ratio=0.0, ratios={"a#2": 0.5}), Parts().eval(), task)
    assert (cut.a.out_channels, cut.b.out_channels, cut.d.out_channels) == (24, 16, 8)


def test_only_what_scores_channels_is_taken_from_the_pass(no_files: None) -> None:
    given = PruneChannels(ranking="global", ratios={"stem": 0.1}, target="macs=0.5", floor=0.9, round_to=4)
    found = sensitivity(tiny_model(), Task(tiny_task().example_inputs), given, ratios=(0.25, 0.5))
    assert [effect.ratio for effect in found.effects] == [0.25, 0.5]


class Stubborn(nn.Module):
    """Breaks when `a` has fewer than 12 channels, of which its operators show nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if x.shape[1] < 12:
            raise RuntimeError("where are my channels?")
        return self.c(self.b(x).mean((2, 3)))


def test_a_group_that_cannot_be_cut_is_protected_and_the_others_are_measured(no_files: None) -> None:
    task = Task((torch.randn(2, 3, 4, 4),))
    rows: list[Effect] = []
    pruning = PruneChannels(round_to=4)
    found = sensitivity(Stubborn().eval(), task, pruning, ratios=(0.75, 0.25, 0.5), on_effect=rows.append)
    assert [(row.name, row.ratio) for row in found.effects] == [("a", 0.25), ("b", 0.25), ("b", 0.5), ("b", 0.75)]
    assert found.protected == {
        "a": "cutting it breaks the forward at 'a' (where are my channels?)",
        "c": "an output of the model",
    }
    assert tuple(rows) == found.effects


def test_a_change_that_cannot_be_exported_is_told_and_the_others_are_measured(
    no_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: Gauge, model: nn.Module, name: str) -> Path:
        if model.b.out_channels == 8:
            raise CompressError("torch.onnx.export failed on Stubborn: no\nand more")
        return self.folder / name

    monkeypatch.setattr(Gauge, "write", write)
    task, pruning = Task((torch.randn(2, 3, 4, 4),)), PruneChannels(exclude=("a",), round_to=4)
    found = sensitivity(Stubborn().eval(), task, pruning, ratios=(0.25, 0.5, 0.75))
    assert [(row.name, row.ratio) for row in found.effects] == [("b", 0.25), ("b", 0.75)]
    assert found.failed == {"b prune 0.50": "torch.onnx.export failed on Stubborn: no"}
    with pytest.raises(UserError) as error:
        sensitivity(Stubborn().eval(), task, pruning, ratios=(0.5,))
    assert str(error.value) == (
        "no change could be measured: a (excluded by 'a'), c (an output of the model), "
        "b prune 0.50 (torch.onnx.export failed on Stubborn: no)"
    )


def test_on_segformer_every_change_is_either_measured_or_explained(no_files: None) -> None:
    model, inputs = build("SegFormer")
    pruner = PruneChannels().pruner(Artifact.start(model, Task(inputs)))
    free = {group.id for group in pruner.groups if group.fixed is None}
    found = sensitivity(model, Task(inputs), ratios=(0.5,))
    measured = {effect.name for effect in found.effects}
    assert measured | (set(found.protected) & free) == free
    assert measured
    assert found.failed == {}


def test_nothing_to_cut() -> None:
    with pytest.raises(UserError) as error:
        sensitivity(tiny_model(), tiny_task(), PruneChannels(round_to=16), ratios=(0.25, 0.5), timing=QUICK)
    assert str(error.value) == "no group can be cut at ratios 0.25, 0.5 and round_to 16"


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sensitivity(model, tiny_task(), ratios=(0.5,), timing=QUICK)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_each_module_stays_in_the_mode_that_it_had(no_files: None) -> None:
    model = tiny_model().train()
    model.stem_bn.eval()
    before = {name: module.training for name, module in model.named_modules()}
    sensitivity(model, Task(tiny_task().example_inputs), ratios=(0.5,))
    assert {name: module.training for name, module in model.named_modules()} == before


def test_a_plan_of_the_suggestions_cuts_these_groups() -> None:
    cut = compress.apply(PruneChannels(ratio=0.0, ratios={"stem": 0.5}), tiny_model(), tiny_task())
    assert cut.stem.out_channels == 8


def test_a_notebook_shows_what_the_terminal_does() -> None:
    effects = (
        Effect("a<b>", "prune 0.50", 0.5, 0.5, 0.4, 1.0, 0.25, 2_000_000),
        Effect("c", "int8", None, 0.7, 0.2, 1.5, -0.25, 3_000_000),
        Effect("d", "int8", None, 0.91, -0.01, 1.0, 0.0, 3_000_000),
    )
    found = Sensitivity(
        "validate", 0.9, 1.25, 3_000_000, effects, {"a<b>": 0.5, "c": 0.0}, {"e": "why & how"}, 0.5, {"f int8": "no"}
    )
    page = found._repr_html_()
    assert re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page) == [
        *("group", "change", "accuracy %", "drop", "ms p50", "saved ms", "params M", ""),
        *("a&lt;b&gt;", "prune 0.50", "50.00", "40.00", "1.000", "0.250", "2.000", "#" * 20),
        *("c", "int8", "70.00", "20.00", "1.500", "-0.250", "3.000", "#" * 10),
        *("d", "int8", "91.00", "-1.00", "1.000", "0.000", "3.000", ""),
    ]
    assert re.findall(r"<li>(.*?)</li>", page) == [
        "original: 90.00 % on validate data, 1.250 ms, 3.000 M parameters",
        "protected: e (why &amp; how)",
        "note: f int8 failed: no",
        "suggested (at most 50 points each): {&#x27;a&lt;b&gt;&#x27;: 0.5}",
    ]
    blind = replace(found, score=None, effects=(replace(effects[0], score=None, drop=None),), suggested={})
    assert re.findall(r"<td[^>]*>(.*?)</td>", blind._repr_html_())[1:3] == ["-", "-"]
    assert blind.lines()[0].startswith("original: not scored, ") and blind.lines()[-1].endswith(": none")
