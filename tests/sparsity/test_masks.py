"""Zeros of sparse layers stay; all other zeros are nobody's business."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.sparsity.masks import keep_zeros, mark_sparse_, sparse_weights
from compress.training import Settings, fit


class Net(nn.Module):
    """Two sparse layers, a dense one with a zero, a norm whose scale starts at zero, an embedding with a padding row."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 6, padding_idx=0)
        self.first, self.second, self.dense = nn.Linear(6, 8), nn.Conv1d(8, 8, 1), nn.Linear(8, 2)
        self.norm = nn.BatchNorm1d(8)
        nn.init.zeros_(self.norm.weight)
        with torch.no_grad():
            self.first.weight[::2, 1] = 0
            self.first.bias[0] = 0
            self.second.weight[:, 3:5] = 0
            self.dense.weight[0, 0] = 0
        mark_sparse_(self.first)
        mark_sparse_(self.second)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.first(x + self.words.weight.sum(0)))
        return self.dense(y + self.norm(self.second(y[..., None])[..., 0]))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 6, generator=generator)
    return list(zip(x.split(8), (x[:, 1] > 0).long().split(8), strict=True))


def zeros_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter == 0 for name, parameter in model.named_parameters()}


def check(model: nn.Module, zeros: dict[str, Tensor]) -> None:
    """The zeros of the sparse weights are those of before; every other weight moved, zero or not."""
    after = zeros_of(model)
    for name in ("first.weight", "second.weight"):
        assert zeros[name].any()
        assert torch.equal(after[name], zeros[name]), name
    for name in ("first.bias", "dense.weight", "norm.weight", "words.weight"):
        assert zeros[name].any()
        assert not after[name].any(), name


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01, foreach=False),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_zeros_stay_in_any_loop_with_momentum_and_decay(make: Callable[..., torch.optim.Optimizer]) -> None:
    model = Net()
    zeros, optimizer = zeros_of(model), make(model.parameters())
    # Momentum from before the zeros were held would move them.
    F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    with torch.no_grad():
        state = copy.deepcopy(model.state_dict())
        optimizer.step()
        model.load_state_dict(state)
    with keep_zeros(model):
        for x, y in batches() * 2:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            assert all(torch.equal(w == 0, zeros[name]) for name, w in sparse_weights(model).items())
    check(model, zeros)
    optimizer.step()
    assert not torch.equal(zeros_of(model)["first.weight"], zeros["first.weight"]), "held only within"


def test_fit_holds_them() -> None:
    model = Net()
    zeros = zeros_of(model)
    fit(model, batches, lambda logits, _, y: F.cross_entropy(logits, y), Settings(epochs=3, lr=0.1, weight_decay=0.05))
    check(model, zeros)


def test_zeros_written_while_training_are_held_from_then_on() -> None:
    model = Net()
    zeros = zeros_of(model)
    seen: list[tuple[int, int]] = []

    def before_step(step: int, steps: int) -> bool:
        seen.append((step, steps))
        if step == 7:
            with torch.no_grad():
                model.second.weight[2] = 0
        return step == 7

    fit(model, batches, lambda logits, _, y: F.cross_entropy(logits, y), Settings(epochs=3, lr=0.1), before_step=before_step)
    zeros["second.weight"][2] = True
    check(model, zeros)
    assert seen == [(step, 18) for step in range(18)]


def test_the_mark_is_copied_and_belongs_to_the_weight() -> None:
    model = copy.deepcopy(Net())
    assert set(sparse_weights(model)) == {"first.weight", "second.weight"}
    assert set(sparse_weights(model.first)) == {"weight"}
    assert sparse_weights(nn.Linear(2, 2)) == {}


def test_an_error_within_ends_the_holding() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    with pytest.raises(RuntimeError, match="on purpose"), keep_zeros(model):
        raise RuntimeError("on purpose")
    model(batches()[0][0]).sum().backward()
    optimizer.step()
    assert not (model.first.weight == 0).any()
