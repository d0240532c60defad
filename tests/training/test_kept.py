"""What a training run ends with: the average against a formula written out, and the best epoch of scores made up."""

import pytest
import torch
from torch import Tensor, nn

from compress.training.kept import Average, Kept


def net(value: float = 0.0) -> nn.Module:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, value)
    model.bias.requires_grad_(False)
    return model


@torch.no_grad()
def put(model: nn.Module, value: float) -> None:
    model.weight.fill_(value)


def test_the_average_follows_fast_and_then_with_its_decay() -> None:
    model, expected = net(8.0), 8.0
    average = Average(model, 0.5)
    for step, value in enumerate([1.0, 2.0, -4.0, 3.0, 5.0, 1.0, 2.0, 0.0, 7.0, 1.0], 1):
        put(model, value)
        average.update_()
        decay = min(0.5, (1 + step) / (10 + step))  # 2 / 11, 3 / 12, ..., and 1 / 2 from the eighth step on
        expected = decay * expected + (1 - decay) * value
    average.swap_()
    assert model.weight.item() == pytest.approx(expected)
    average.swap_()
    assert model.weight.item() == 1.0
    assert len(average.values) == 1  # nothing for what does not train


def run(model: nn.Module, scores: list[float] | None, decay: float | None = None) -> Kept:
    """Epochs whose one step each sets the weight to 1, 2, 3, ..."""
    given = iter(scores or [])
    kept = Kept(model, decay, (lambda model: next(given)) if scores is not None else None)
    for epoch in range(1, len(scores or [0, 0, 0]) + 1):
        put(model, epoch)
        kept.after_step()
        assert kept.after_epoch(lambda: None) == (scores[epoch - 1] if scores else None)
        assert model.weight.item() == epoch  # training goes on where it was
    kept.finish_(lambda: None)
    return kept


@pytest.mark.parametrize(("scores", "best"), [([0.1, 0.9, 0.3], 2), ([0.9, 0.1, 0.3], 1), ([0.5, 0.9, 0.9], 3)])
def test_the_best_epoch_is_kept_and_the_last_of_equals(scores: list[float], best: int) -> None:
    model = net()
    assert run(model, scores).since_best == len(scores) - best
    assert model.weight.item() == best
    assert not model.training


def test_without_scores_the_last_step_is_kept() -> None:
    model = net()
    assert run(model, None).best == {}
    assert model.weight.item() == 3


def test_what_is_scored_and_kept_is_the_average_in_eval_mode() -> None:
    model, seen = net(), []

    def score(model: nn.Module) -> float:
        assert not model.training
        seen.append(model.weight.item())
        return -len(seen)  # the first is best

    kept = Kept(model, 0.9, score)
    for value in (11.0, 100.0):
        model.train()
        put(model, value)
        kept.after_step()
        kept.after_epoch(lambda: None)
        assert model.training
    kept.finish_(lambda: None)
    first = 9 / 11 * 11  # from 0, with a decay of 2 / 11
    assert seen == pytest.approx([first, 3 / 12 * first + 9 / 12 * 100])
    assert model.weight.item() == pytest.approx(first)


def test_zeros_that_came_during_training_are_in_the_average_too() -> None:
    model, seen = net(4.0), []

    def zero() -> None:
        put(model, 0.0)

    def score(model: nn.Module) -> float:
        seen.append(model.weight.item())
        return 0.0

    for asked in (score, None):
        kept = Kept(model, 0.5, asked)
        put(model, 3.0)
        kept.after_step()
        kept.after_epoch(zero)
        kept.finish_(zero)
        assert model.weight.item() == 0.0
    assert seen == [0.0]


def test_buffers_are_kept_with_the_best_epoch() -> None:
    model = nn.BatchNorm1d(1)
    scores = iter([1.0, 0.0])
    kept = Kept(model, None, lambda model: next(scores))
    for _ in range(2):
        model(Tensor([[1.0], [2.0]]))
        kept.after_epoch(lambda: None)
    kept.finish_(lambda: None)
    assert model.num_batches_tracked.item() == 1
