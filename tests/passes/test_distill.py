"""The pass `distill`: another network as teacher, the control without, what is cached, and what cannot work."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import compress
from compress import zoo
from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.outputs import predictor
from compress.passes.distill import Distill, samples_in
from compress.passes.finetune import Finetune
from compress.passes.prune_channels import PruneChannels
from compress.passes.recovery import described
from compress.report.text import verdicts
from compress.testing import check_pass, tiny_model, tiny_task
from compress.training import Epoch, FitResult

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}
TEACHER = """
import torch
from torch import nn

def wide():
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, {classes}))
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.passes.distill.CACHE", tmp_path / "cache")


def teacher(folder: Path, classes: int = 4) -> str:
    path = folder / "teacher.py"
    path.write_text(TEACHER.format(classes=classes))
    return f"{path}:wide"


def after(pass_: Any, **task: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The weights that a pass leaves the tiny network with, and its notes."""
    torch.manual_seed(0)
    artifact = Artifact.start(tiny_model(), replace(tiny_task(), **task))
    model = pass_.apply(replace(artifact, model=tiny_model()))
    return model.state_dict(), artifact.notes


def test_it_keeps_the_contract() -> None:
    check_pass(Distill(epochs=1, losses={"kd": 0.5, "ce": 0.5, "hint": 1.0}))


def test_by_default_it_is_finetune() -> None:
    one, _ = after(Finetune(epochs=2, lr=0.05))
    other, _ = after(Distill(epochs=2, lr=0.05))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_another_network_teaches(tmp_path: Path) -> None:
    one, notes = after(Distill(epochs=2, lr=0.05, losses={"kd": 1.0}, teacher=teacher(tmp_path)))
    other, _ = after(Distill(epochs=2, lr=0.05, losses={"kd": 1.0}))
    assert not torch.equal(one["head.weight"], other["head.weight"])
    said = r"distilled from .*teacher\.py:wide by kd 1; the teacher scores (\d+\.\d\d) % on the validation data$"
    told = re.search(said, notes[0])
    assert told is not None
    score = tiny_task().validate(predictor(zoo.load(teacher(tmp_path)).model))
    assert 0 < score < 1 and told[1] == f"{100 * score:.2f}"


def test_labels_alone_need_no_teacher(tmp_path: Path) -> None:
    one, notes = after(Distill(epochs=1, losses={"ce": 1.0}, teacher=str(tmp_path / "missing.py:none")))
    other, _ = after(Finetune(epochs=1, distill=False))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert notes[0].endswith(", from the labels alone")


def test_answers_to_samples_that_come_again_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = list(tiny_task().train())
    steps = [PruneChannels(0.25, round_to=4), Distill(epochs=3, losses={"kd": 1.0}, teacher=teacher(tmp_path))]
    task = replace(tiny_task(), train=lambda: batches)
    asked: list[int] = []
    run: Callable[..., Tensor] = compress.distillation.Teacher._run
    monkeypatch.setattr("compress.distillation.Teacher._run", lambda self, x: (asked.append(len(x[0])), run(self, x))[1])
    first = compress.run(tiny_model(), task, steps, out=tmp_path / "a", timing=QUICK)
    epoch, examples = sum(len(y) for _, y in batches), len(task.example_inputs[0])  # by the examples shapes are compared
    assert sum(count for count in asked if count > examples) == epoch
    again = compress.run(tiny_model(), task, steps, out=tmp_path / "b", timing=QUICK)
    assert sum(count for count in asked if count > examples) == epoch
    assert all(torch.equal(x, again.model.state_dict()[name]) for name, x in first.model.state_dict().items())
    assert len(list((tmp_path / "cache" / "teachers").iterdir())) == 1


def test_the_control_is_the_same_training_without_the_teacher(tmp_path: Path) -> None:
    prune, shown = PruneChannels(0.25, round_to=4), []
    options = {"out": tmp_path / "run", "timing": QUICK, "on_stage": lambda record: shown.append(record.name)}
    run = compress.run(tiny_model(), tiny_task(), [prune, Distill(epochs=2, control=True)], **options)
    plain = compress.run(tiny_model(), tiny_task(), [prune, Finetune(epochs=2, distill=False)], timing=QUICK)
    taught = compress.run(tiny_model(), tiny_task(), [prune, Distill(epochs=2)], timing=QUICK)
    stages = {stage["name"]: stage for stage in run.report["stages"]}
    assert list(stages) == shown == ["baseline", "prune_channels", "distill_control", "distill"]
    assert losses(stages["distill_control"]) == losses(plain.report["stages"][-1])
    assert losses(stages["distill"]) == losses(taught.report["stages"][-1])
    assert all(torch.equal(x, taught.model.state_dict()[name]) for name, x in run.model.state_dict().items())
    gained = 100 * (stages["distill"]["accuracy"] - stages["distill_control"]["accuracy"])
    said = f"distill: the teacher brings {gained:+.2f} points ({100 * stages['distill_control']['accuracy']:.2f} % on the labels alone)"
    assert verdicts(run.report) == [said]
    assert verdicts(taught.report) == []
    assert run.report["summary"]["accuracy_drop"] == taught.report["summary"]["accuracy_drop"]
    assert (tmp_path / "run" / "model.onnx").stat().st_size == stages["distill"]["size_bytes"]


def losses(stage: dict[str, Any]) -> list[float]:
    return [epoch["loss"] for epoch in stage["details"]["training"]]


def test_a_control_with_other_data_is_an_error() -> None:
    calls = iter(range(100))
    # The control is trained first; from then on there is a batch less.
    counts = {0: 4}
    task = replace(tiny_task(), train=lambda: list(tiny_task().train())[: counts.get(next(calls) // 4, 3)])
    with pytest.raises(PassError) as error:
        compress.run(tiny_model(), task, [Distill(epochs=1, control=True, lr=0.001)], timing=QUICK)
    assert str(error.value) == (
        "distill and its control cannot be compared: 3 steps on 48 samples, and 4 on 64; "
        "Task.train must give the same number of batches on each call"
    )


def test_counting_samples_uses_up_no_random_number() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert samples_in(lambda: [(torch.randn(5, 2), torch.zeros(5))] * 3) == 15
    assert torch.equal(torch.get_rng_state(), before)
    assert samples_in(lambda: []) == 0


def test_a_teacher_of_other_classes_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        compress.apply(Distill(teacher=teacher(tmp_path, classes=7)), tiny_model(), tiny_task())
    assert str(error.value) == "distill: the teacher gives 7 numbers for a sample, the student 4: they are of other classes"


def test_a_teacher_that_does_not_run_is_told(tmp_path: Path) -> None:
    path = tmp_path / "grey.py"
    path.write_text("from torch import nn\ndef grey():\n    return nn.Conv2d(1, 4, 3)\n")
    with pytest.raises(UserError) as error:
        compress.apply(Distill(teacher=f"{path}:grey"), tiny_model(), tiny_task())
    assert str(error.value).startswith(f"distill: the teacher {path}:grey does not run on the student's inputs (")


def test_a_teacher_without_weights_is_told_where_its_weights_go() -> None:
    with pytest.raises(UserError) as error:
        Distill(teacher="resnet20").rehearse(tiny_model(), tiny_task())
    told = "distill: the teacher: the zoo has no weights for resnet20; give a state dict with --teacher-weights FILE"
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"losses": {}}, "distill: losses is empty; name one, such as kd=0.9,ce=0.1"),
        ({"losses": {"hintt": 1.0}}, "distill: unknown loss 'hintt'. Did you mean 'hint'?"),
        ({"losses": {"kd": 0.0}}, "distill: the weight of kd must be in (0, inf), got 0"),
        ({"temperature": 0.0}, "distill: temperature must be in (0, inf), got 0"),
        ({"label_smoothing": 1.0}, "distill: label_smoothing must be in [0, 0.999], got 1"),
        (
            {"teacher_weights": "x.safetensors"},
            "distill: the teacher original has its own weights; teacher_weights goes with a MODEL",
        ),
        (
            {"losses": "hint"},
            "distill: losses must map names of losses to weights, such as losses={'kd': 0.9, 'ce': 0.1}, got 'hint'",
        ),
        (
            {"control": True, "patience": 2},
            "distill: control needs as many steps with and without teacher; leave patience out",
        ),
        ({"epochs": 0}, "distill: epochs must be at least 1, got 0"),
        ({"average": 1.0}, "distill: average must be in [0, 1), got 1"),
        ({"mixup": -1.0}, "distill: mixup must be in [0, inf), got -1"),
        ({"lr": float("nan")}, "distill: lr must be in (0, inf), got nan"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        Distill(**options)
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"teacher": "orignal"}, "distill: unknown teacher 'orignal'. Did you mean 'original'?"),
        ({"teacher": "resnt56"}, "distill: the teacher: unknown model 'resnt56'. Did you mean 'resnet56'?"),
        (
            {"losses": {"hint": 1.0}, "pairs": {"stem": "stems"}},
            "distill: the teacher has no layer 'stems'. Did you mean 'stem'?",
        ),
        (
            {"losses": {"tinybert_hidden": 1.0}},
            "distill: the loss tinybert_hidden compares tokens, batch x tokens x width; an output of 2x16x16x16 has none",
        ),
        (
            {"losses": {"minilm": 1.0}},
            "distill: the loss minilm compares attentions, and student and teacher have none in blocks that could be paired",
        ),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_runs(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    steps, shown = [PruneChannels(0.25, round_to=4), Distill(**options)], []
    with pytest.raises(UserError) as error:
        compress.run(tiny_model(), tiny_task(), steps, out=tmp_path / "out", on_stage=shown.append)
    assert str(error.value) == told
    assert (shown, (tmp_path / "out").exists()) == ([], False)


def test_each_loss_is_in_the_report() -> None:
    artifact = Artifact.start(tiny_model(), tiny_task())
    Distill(epochs=2, losses={"kd": 0.5, "ce": 0.5, "hint": 1.0}).apply(replace(artifact, model=tiny_model()))
    rows = artifact.details["training"]
    for row in rows:
        assert set(row["terms"]) == {"kd", "ce", "hint"}
        assert sum(row["terms"].values()) == pytest.approx(row["loss"], rel=1e-5)
    first, last = ("kd {kd:.4f} + ce {ce:.4f} + hint {hint:.4f}".format(**row["terms"]) for row in rows)
    said = f"mean loss of the first epoch {rows[0]['loss']:.4f} ({first}), of the last {rows[1]['loss']:.4f} ({last}), distilled "
    assert said in artifact.notes[0]


def test_the_report_says_where_a_training_was_resumed() -> None:
    epochs = tuple(Epoch(n, 2 * n, 8 * n, 0.5 / n, None, None, 0.1, 1.0, 0.0) for n in (1, 2))
    said = "4 steps, 16 samples in float32, resumed behind epoch 1, mean loss of the first epoch 0.5000, of the last 0.2500"
    assert described(FitResult(epochs, "float32", resumed=1)) == said
    assert described(FitResult(epochs, "float32")) == said.replace(", resumed behind epoch 1", "")


def test_a_module_can_teach() -> None:
    one, notes = after(Distill(epochs=1, losses={"kd": 1.0}, teacher=tiny_model()))
    other, _ = after(Distill(epochs=1, losses={"kd": 1.0}))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert ", distilled from a TinyResidual by kd 1; the teacher scores " in notes[0]


def test_patience_needs_validation_data() -> None:
    assert Distill(patience=1).needs == ("train", "validate")
    with pytest.raises(UserError) as error:
        compress.apply(Distill(patience=1), tiny_model(), replace(tiny_task(), validate=None))
    assert str(error.value) == (
        "distill needs validate data, and the task has none; give Task(validate=...), or --data with training images"
    )


def test_training_stops_where_nothing_gets_better() -> None:
    scores = iter([0.5, 0.9, 0.3, 0.2, 0.1])
    _, notes = after(Distill(epochs=5, patience=2), validate=lambda predict: next(scores))
    assert notes[1] == "stopped after epoch 4 of 5, 2 after the best, epoch 2"
