"""One change at a time: what it costs in accuracy, what it brings, and the plan that follows from it."""

import pytest
import torch
from torch import nn

import compress
from compress.errors import UserError
from compress.passes.prune_channels import PruneChannels
from compress.sensitivity import Effect, _suggest, sensitivity
from compress.task import Predict, Task
from compress.testing import tiny_model, tiny_task

QUICK = {"min_runs": 3, "min_seconds": 0.01}


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


def test_nothing_to_cut() -> None:
    with pytest.raises(UserError) as error:
        sensitivity(tiny_model(), tiny_task(), PruneChannels(round_to=16), ratios=(0.25, 0.5), timing=QUICK)
    assert str(error.value) == "no group can be cut at ratios 0.25, 0.5 and round_to 16"


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sensitivity(model, tiny_task(), ratios=(0.5,), timing=QUICK)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_plan_of_the_suggestions_cuts_these_groups() -> None:
    cut = compress.apply(PruneChannels(ratio=0.0, ratios={"stem": 0.5}), tiny_model(), tiny_task())
    assert cut.stem.out_channels == 8
