"""int8 within a bound, on a network with one layer that cannot bear integers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import nn

import compress
from compress.artifact import Artifact
from compress.errors import UserError
from compress.gauge import Gauge
from compress.passes import int8
from compress.passes.int8 import Int8
from compress.passes.qat import QAT
from compress.pipeline import transformed
from compress.quant.ptq import prepare
from compress.quant.suspects import worst_layers
from compress.task import Predict, Task
from compress.testing import check_pass, tiny_model, tiny_task

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "TIMING", QUICK)


def noise(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def culprit_model() -> nn.Module:
    """Layer 2 has weights of 1000 behind a channel that is always zero: in integers its other weights round to nothing."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0.0, -1.0
        model[2].weight[:, 0] = 1000.0
        model[2].bias.zero_()
        model[6].bias -= model(noise(64)).mean(0)  # so that every class is predicted
    return model.eval()


def agreement_task(model: nn.Module) -> Task:
    """Scores by how often a prediction is the float network's."""
    images = noise(256)
    with torch.no_grad():
        wanted = model(images).argmax(1).numpy()

    def score(half: slice) -> Callable[[Predict], float]:
        return lambda predict: float((predict(images[half]).argmax(1) == wanted[half]).mean())

    return Task(
        example_inputs=(images[:2],),
        calibration=lambda: [(images[:64],)],
        validate=score(slice(128)),
        evaluate=score(slice(128, 256)),
    )


@pytest.fixture(scope="module")
def culprit() -> tuple[nn.Module, Task]:
    model = culprit_model()
    return model, agreement_task(model)


def test_the_culprit_alone_goes_back_to_float(culprit: tuple[nn.Module, Task], tmp_path: Path) -> None:
    model, task = culprit
    calls: list[str] = []

    def counted(predict: Predict) -> float:
        calls.append("evaluate")
        return task.evaluate(predict)

    run = compress.run(model, replace(task, evaluate=counted), [Int8(max_drop=5.0)], out=tmp_path / "out", timing=QUICK)
    assert calls == ["evaluate"] * 3  # the baseline's, the last stage's, and the check of the file against torch
    stage = run.report["stages"][-1]
    guard = stage["details"]["guard"]
    assert [trial["in_float"] for trial in guard["trials"]][:2] == [[], ["2"]]
    assert guard["chosen"]["in_float"] == ["2"]
    assert (guard["met"], guard["score"], guard["bound"]) == (True, 1.0, {"drop": 0.05, "seconds": None})
    assert guard["trials"][0]["drop"] > 0.1 > 0.05 >= guard["chosen"]["drop"]
    assert stage["accuracy"] > 0.9
    assert stage["notes"] == [
        "ranges from 64 calibration samples",
        f"at most 5 points may be lost: {100 * guard['chosen']['drop']:.2f} points lost on the validation data with 2 in float; "
        f"{len(guard['trials'])} networks tried",
    ]
    coverage = run.report["integer_coverage"]
    assert (coverage["conv"], coverage["linear"]) == ([1, 2], [1, 1])
    assert {"name": "2", "reason": "kept for the accuracy"} in coverage["left_in_float"]
    jsonschema.validate(run.report, json.loads((ROOT / "compress/report/schema.json").read_text()))
    loaded = compress.load(tmp_path / "out", model=model)
    assert torch.equal(loaded(task.example_inputs[0]), run.model(task.example_inputs[0]))


def test_the_cheap_error_points_at_the_culprit(culprit: tuple[nn.Module, Task]) -> None:
    model, task = culprit
    assert task.calibration is not None
    network, _ = prepare(model, task.example_inputs, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    ranked = worst_layers(network, task.calibration, "mse")
    assert (ranked[0], set(ranked)) == ("2", {"0", "2", "6"})


def test_a_bound_that_nothing_meets_gives_the_best_and_says_so(culprit: tuple[nn.Module, Task]) -> None:
    model, task = culprit
    artifact = Artifact.start(model, replace(task, validate=_never_good(task)))
    result = transformed(Int8(max_drop=0.5, exclude=("0",)), artifact, 0, torch.device("cpu"))
    guard = result.details["guard"]
    assert not guard["met"]
    assert guard["chosen"]["score"] == max(trial["score"] for trial in guard["trials"])
    assert result.notes[-1].startswith("not within 0.5 points, every proposal was tried; the best: ")


def _never_good(task: Task) -> Callable[[Predict], float]:
    """The first network asked about, the original, scores 1, and every other half of what it should."""
    asked: list[None] = []

    def validate(predict: Predict) -> float:
        asked.append(None)
        assert task.validate is not None
        return task.validate(predict) * (1.0 if len(asked) == 1 else 0.5)

    return validate


def test_an_interrupted_run_does_not_repeat_what_it_measured(
    culprit: tuple[nn.Module, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = culprit
    scored: list[str] = []
    score = Gauge.score

    def interrupted(self: Gauge, path: Path) -> float | None:
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(path.stem)
        return score(self, path)

    monkeypatch.setattr(Gauge, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress.run(model, task, [Int8(max_drop=5.0, exclude=("0",))], out=tmp_path / "out", timing=QUICK)
    assert scored == ["original", "integers", "trial"]
    rest: list[str] = []

    def noted(self: Gauge, path: Path) -> float | None:
        rest.append(path.stem)
        return score(self, path)

    monkeypatch.setattr(Gauge, "score", noted)
    run = compress.run(model, task, [Int8(max_drop=5.0, exclude=("0",))], out=tmp_path / "out", resume=True, timing=QUICK)
    guard = run.report["stages"][-1]["details"]["guard"]
    assert guard["chosen"]["in_float"] == ["2"]
    assert rest == ["trial"] * (len(guard["trials"]) - 2)
    assert not list((tmp_path / "out").glob("**/trials.jsonl"))  # it is in the report


def test_it_keeps_the_contract() -> None:
    check_pass(Int8(max_drop=100.0, time_budget=60.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Int8(max_drop=-1.0), "int8: max_drop must be in [0, 100], got -1"),
        (lambda: Int8(max_drop=1.0, time_budget=0.0), "int8: time_budget must be in (0, inf), got 0"),
        (lambda: Int8(time_budget=9.0), "int8: time_budget is the time to search within max_drop; give that, too"),
        (
            lambda: QAT(max_drop=1.0),
            "qat: max_drop is an option of int8; qat trains until the rounding costs less, and keeps the best epoch",
        ),
        (
            lambda: QAT(time_budget=9.0),
            "qat: time_budget is an option of int8; it bounds the search within max_drop; qat takes as long as its epochs",
        ),
    ],
)
def test_mistakes_are_told(make: Callable[[], Int8], message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == message


def test_without_validation_data_it_says_how_to_give_them() -> None:
    with pytest.raises(UserError) as error:
        compress.apply(Int8(max_drop=1.0), tiny_model(), replace(tiny_task(), validate=None))
    assert str(error.value) == (
        "int8 needs validate data, and the task has none; give Task(validate=...), or --data with training images"
    )
    compress.apply(Int8(), tiny_model(), replace(tiny_task(), validate=None))
