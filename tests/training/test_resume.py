"""A training that is killed and goes on ends with the numbers of one that was not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.progress import listen
from compress.sparsity.masks import mark_sparse_
from compress.training import FitResult, Settings, fit
from compress.training.loop import CSV, STATE
from compress.training.state import random_state, read_state, set_random_state, write_state


class KilledError(Exception):
    """Stands for the end of the process: nothing of the training cleans up after it."""


class Noisy(nn.Module):
    """A loss with a parameter of its own, and noise from torch's and numpy's generators."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        noise = torch.randn(()) + np.random.rand()  # noqa: NPY002 - the global one is what users draw from
        return F.cross_entropy(logits * self.scale, target) + 0.1 * noise * logits.square().mean()


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    x = torch.linspace(-2, 2, 48).reshape(24, 2)
    order = torch.randperm(24)
    return iter(list(zip(x[order].split(6), (x.sum(1) > 0).long()[order].split(6), strict=True)))


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight[:3] = 0
    mark_sparse_(model[0])
    return model


def train(
    settings: Settings, keep: Path | None, kill: tuple[int, int] | None = None, scores: list[float] | None = None
) -> tuple[nn.Module, FitResult, nn.Module]:
    """A training, killed at a step of an epoch, both counted from 1."""
    model, loss, calls = net(), Noisy(), 0
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002

    def before_step(done: int, steps: int) -> bool:
        nonlocal calls
        calls += 1
        if kill is not None and done + 1 == (kill[0] - 1) * 4 + kill[1]:
            raise KilledError
        if done == 5:
            with torch.no_grad():
                model[0].weight[3] = 0
        return done == 5

    validate = (lambda model: float(model[4].weight.detach().sum())) if settings.patience else None
    result = fit(model, batches, loss, settings, before_step=before_step, validate=validate, keep=keep)
    return model, result, loss


KINDS = {
    "one cycle": Settings(epochs=4, lr=0.1),
    "averaged, best of all": Settings(epochs=4, lr=0.1, average=0.8, patience=4),
    "adamw, cosine": Settings(epochs=4, lr=0.01, optimizer="adamw", schedule="cosine"),
    "plateau": Settings(epochs=4, lr=0.1, schedule="plateau"),
    "steps, mixed": Settings(epochs=4, lr=0.1, schedule="step", mixup=0.4),
}


@pytest.mark.parametrize("kill", [(1, 3), (2, 1), (3, 4)], ids=str)
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_it_ends_with_the_same_numbers(tmp_path: Path, settings: Settings, kill: tuple[int, int]) -> None:
    expected, whole, objective = train(settings, None)
    with pytest.raises(KilledError):
        train(settings, tmp_path, kill)
    model, result, loss = train(settings, tmp_path)
    for found, wanted in ((model, expected), (loss, objective)):
        state = wanted.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())
    assert (result.losses, result.scores) == (whole.losses, whole.scores)
    assert int((model[0].weight == 0).sum()) == 8


def test_finished_epochs_are_not_trained_again(tmp_path: Path) -> None:
    settings = Settings(epochs=3, lr=0.1)
    train(settings, tmp_path)
    seen: list[int] = []
    model = net()
    fit(model, batches, Noisy(), settings, before_step=lambda done, steps: bool(seen.append(done)), keep=tmp_path)
    assert seen == []
    assert not model.training


def test_it_says_from_where_it_goes_on(tmp_path: Path) -> None:
    settings, said = Settings(epochs=4, lr=0.1), list[str]()
    with listen(said.append):
        with pytest.raises(KilledError):
            train(settings, tmp_path, (3, 1))
        assert said == []
        assert train(settings, tmp_path)[1].resumed == 2
    assert said == ["train goes on behind epoch 2 of 4"]
    assert train(settings, None)[1].resumed == 0


def test_each_epoch_is_a_line_of_csv_at_once(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(Settings(epochs=3, lr=0.1), tmp_path, (3, 2))
    lines = (tmp_path / CSV).read_text().splitlines()
    assert lines[0] == "number,steps,samples,loss,accuracy,score,lr,seconds,waiting"
    assert [line.split(",")[:3] for line in lines[1:]] == [["1", "4", "24"], ["2", "8", "48"]]


def test_a_damaged_state_begins_anew(tmp_path: Path) -> None:
    settings = Settings(epochs=2, lr=0.1)
    expected, _, _ = train(settings, tmp_path)
    whole = (tmp_path / STATE).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no archive"):
        (tmp_path / STATE).write_bytes(damaged)
        model, _, _ = train(settings, tmp_path)
        assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_state_holds_no_code(tmp_path: Path) -> None:
    write_state(tmp_path / STATE, {"what": Path})
    assert read_state(tmp_path / STATE) is None


@pytest.mark.parametrize("draw", [lambda: torch.rand(3).tolist(), lambda: np.random.rand(3).tolist()])  # noqa: NPY002
def test_random_numbers_go_on(draw: Callable[[], list[float]], tmp_path: Path) -> None:
    draw()
    write_state(tmp_path / STATE, random_state())
    following = draw()
    state = read_state(tmp_path / STATE)
    assert state is not None
    set_random_state(state)
    assert draw() == following
