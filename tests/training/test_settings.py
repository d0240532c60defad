"""Optimizers, schedules, accumulation and mixtures, against what they are by their formulas."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import UserError
from compress.training import Settings, fit
from compress.training.log import Log, to_csv
from compress.training.mixup import Mixture
from compress.training.result import Epoch
from compress.training.settings import Schedule, check, make_optimizer
from compress.training.tally import groups


def rates(settings: Settings, steps: int, scores: list[float] | None = None) -> list[float]:
    """The learning rate of each step, or of each epoch where scores are given."""
    optimizer = make_optimizer([nn.Parameter(torch.zeros(2, 2))], settings, settings.lr)
    schedule = Schedule(optimizer, settings, settings.lr, steps)
    found = []
    for number in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scores is None:
            schedule.after_step()
        else:
            schedule.after_epoch(scores[number])
    return found


def test_cosine_goes_down_from_the_start() -> None:
    expected = [0.1 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)]
    assert rates(Settings(lr=0.1, schedule="cosine"), 20) == pytest.approx(expected)


def test_step_falls_twice() -> None:
    assert rates(Settings(lr=0.1, schedule="step"), 8) == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_constant_is_constant() -> None:
    assert rates(Settings(lr=0.1, schedule="constant"), 9) == [0.1] * 9


def test_plateau_waits_for_two_epochs_that_are_no_better() -> None:
    scores = [0.1, 0.2, 0.2, 0.1, 0.3, 0.2, 0.1, 0.1]
    assert rates(Settings(lr=0.1, schedule="plateau"), 8, scores) == pytest.approx([0.1] * 4 + [0.01] * 3 + [0.001])


def test_adamw_by_its_formula() -> None:
    torch.manual_seed(0)
    weight, gradients = nn.Parameter(torch.randn(3, 2)), torch.randn(4, 3, 2)
    settings = Settings(lr=0.02, optimizer="adamw", weight_decay=0.1)
    expected, mean, square = weight.detach().double(), torch.zeros(3, 2).double(), torch.zeros(3, 2).double()
    optimizer = make_optimizer([weight], settings, settings.lr)
    for step, gradient in enumerate(gradients, 1):
        weight.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient.double() ** 2
        expected = expected * (1 - 0.02 * 0.1)
        expected = expected - 0.02 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    assert torch.allclose(weight.double(), expected, atol=1e-6)


def test_batches_of_a_step_count_as_one_large_batch() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(24, 4), torch.arange(24) % 2
    loss = lambda logits, inputs, target: F.cross_entropy(logits, target)  # noqa: E731
    ends = []
    for size, accumulate in ((12, 1), (4, 3)):
        torch.manual_seed(1)
        model = nn.Linear(4, 2)
        parts = list(zip(x.split(size), y.split(size), strict=True))
        done = fit(model, lambda parts=parts: parts, loss, Settings(epochs=3, lr=0.1, accumulate=accumulate), autocast=False)
        ends.append(model.weight)
        assert (done.steps, done.samples) == (6, 72)
    assert torch.allclose(ends[0], ends[1], atol=1e-6)


def test_the_last_step_of_an_epoch_takes_what_is_left() -> None:
    batches = [(torch.tensor([number]),) for number in range(5)]
    assert [[int(x) for (x,) in group] for group in groups(batches, 2)] == [[0, 1], [2, 3], [4]]


def test_a_mixture_is_of_inputs_and_labels_alike() -> None:
    mixture = Mixture(0.75, torch.tensor([2, 0, 1]))
    x = torch.tensor([[0.0], [4.0], [8.0]])
    assert mixture.inputs([x])[0].tolist() == [[2.0], [3.0], [7.0]]
    assert mixture.target(torch.tensor([0, 1, 1]), 2).tolist() == [[0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]


def test_shares_are_drawn_from_beta() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([Mixture.draw(2, 2.0, torch.device("cpu")).share for _ in range(3000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.var().item() == pytest.approx(1 / (4 * 5), abs=0.005)  # of Beta(2, 2)


def test_training_on_mixtures_judges_no_accuracy() -> None:
    seen: list[tuple[int, ...]] = []

    def loss(logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        seen.append(tuple(target.shape))
        return F.cross_entropy(logits, target)

    done = fit(nn.Linear(4, 2), lambda: [(torch.randn(6, 4), torch.arange(6) % 2)], loss, Settings(epochs=1, mixup=0.3))
    assert seen == [(6, 2)]
    assert done.epochs[0].accuracy is None


def test_words_cannot_be_mixed() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    batches = [(torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(UserError) as error:
        fit(model, lambda: batches, lambda logits, inputs, target: logits.sum(), Settings(mixup=0.2))
    assert str(error.value) == "mixup mixes images, and these inputs are whole numbers, such as token ids; leave it out"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": 0}, "p: epochs must be at least 1, got 0"),
        ({"accumulate": 0}, "p: accumulate must be at least 1, got 0"),
        ({"patience": 0}, "p: patience must be at least 1, got 0"),
        ({"lr": 0.0}, "p: lr must be in (0, inf), got 0"),
        ({"weight_decay": 1.5}, "p: weight_decay must be in [0, 1], got 1.5"),
        ({"clip_norm": 0.0}, "p: clip_norm must be in (0, inf), got 0"),
        ({"average": 1.0}, "p: average must be in [0, 1), got 1"),
        ({"mixup": math.nan}, "p: mixup must be in [0, inf), got nan"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        check(Settings(**options), "p")
    assert str(error.value) == told


def test_patience_without_validation_is_told() -> None:
    with pytest.raises(UserError) as error:
        fit(nn.Linear(2, 2), lambda: [(torch.ones(1, 2), torch.zeros(1))], lambda *_: torch.ones(()), Settings(patience=1))
    assert str(error.value) == "train: patience needs validation data to stop by"


EPOCH = Epoch(number=1, steps=3, samples=12, loss=0.5, accuracy=None, score=0.25, lr=0.1, seconds=2.0, waiting=0.0)


def test_what_is_not_known_is_empty_in_a_csv() -> None:
    row = {"number": 1, "steps": 3, "samples": 12, "loss": 0.5, "accuracy": None, "score": 0.25}
    assert to_csv([row], tuple(row)) == "number,steps,samples,loss,accuracy,score\n1,3,12,0.5,,0.25\n"


def test_terms_of_a_loss_are_columns_of_a_csv() -> None:
    rows = [{"number": 1, "loss": 0.5}, {"number": 2, "loss": 0.75, "terms": {"kd": 0.5, "ce": 0.25}}]
    assert to_csv(rows, ("number", "loss")) == "number,loss,loss_kd,loss_ce\n1,0.5,,\n2,0.75,0.5,0.25\n"


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed (extra `tensorboard`)")
def test_scalars_are_what_tensorboard_reads(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(None, str(tmp_path), "finetune")
    log.write([replace(EPOCH, terms={"kd": 0.25})])
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("finetune/loss")] == [0.5]
    assert [event.value for event in events.Scalars("finetune/loss_kd")] == [0.25]
    assert "finetune/accuracy" not in events.Tags()["scalars"]


def test_a_missing_tensorboard_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError) as error:
        Log(None, str(tmp_path), "finetune")
    assert str(error.value) == "tensorboard is not installed; pip install 'compress-toolkit[tensorboard]'"
