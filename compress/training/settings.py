"""How a network is trained: the options that every training pass has, and what torch makes of them."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.optim import lr_scheduler

from compress.errors import UserError

MOMENTUM = 0.95  # under the one-cycle schedule, which lowers it to 0.85 and brings it back; 0.9 under the others


@dataclass(frozen=True)
class Settings:
    """Options of `compress.training.fit`.

    Args:
        epochs: passes over the training data, at least 1.
        lr: peak learning rate, above 0.
        weight_decay: on weights of convolutions and linear layers, in [0, 1].
        optimizer: SGD with Nesterov momentum, or AdamW.
        schedule: of the rate: one_cycle (up over the first 30 % of the steps, then down), cosine (down from the start), step (a
            tenth after half of the steps, a hundredth after three quarters), plateau (a tenth after two epochs without a better
            score, or loss without validation), constant.
        accumulate: batches whose gradients make one step, at least 1.
        clip_norm: gradients are scaled down to this Euclidean norm, of all of them together, where it is larger; None: never.
        average: the training ends with the exponential moving average of the weights, of this decay in [0, 1); None: without.
        mixup: samples are mixed by shares drawn from Beta(mixup, mixup); 0: never.
        patience: stop after so many epochs without a better validation score, and end with the best; None: never.
        retry: begin once again, at a tenth of the rate, where the loss becomes no number or grows a hundredfold.
        tensorboard: a folder to write scalars to, for TensorBoard.

    Source: Smith and Topin 2019, "Super-Convergence", section 3 (one_cycle); Loshchilov and Hutter 2017, "SGDR" (cosine), and
    2019, "Decoupled Weight Decay Regularization" (adamw); He et al. 2016, "Deep Residual Learning", section 4.2 (step); Zhang
    et al. 2018, "mixup".
    """

    epochs: int = 4
    lr: float = 0.01
    weight_decay: float = 5e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["one_cycle", "cosine", "step", "plateau", "constant"] = "one_cycle"
    accumulate: int = 1
    clip_norm: float | None = None
    average: float | None = None
    mixup: float = 0.0
    patience: int | None = None
    retry: bool = False
    tensorboard: str | None = None

    trains: ClassVar[bool] = True  # a pass with these options is run by all processes that train together


def check(settings: Settings, name: str) -> None:
    """Raise UserError, with the name of the pass, unless every option is in its range."""
    for option in ("epochs", "accumulate", "patience"):
        value = getattr(settings, option)
        if value is not None and value < 1:
            raise UserError(f"{name}: {option} must be at least 1, got {value}")
    ranges: tuple[tuple[str, float, float, str], ...] = (
        ("lr", 0, float("inf"), "()"),
        ("weight_decay", 0, 1, "[]"),
        ("clip_norm", 0, float("inf"), "()"),
        ("average", 0, 1, "[)"),
        ("mixup", 0, float("inf"), "[)"),
    )
    for option, low, high, ends in ranges:
        value = getattr(settings, option)
        if value is None:
            continue
        above = value >= low if ends[0] == "[" else value > low
        below = value <= high if ends[1] == "]" else value < high
        if not (above and below):  # never so for NaN
            raise UserError(f"{name}: {option} must be in {ends[0]}{low:g}, {high:g}{ends[1]}, got {value:g}")


def make_optimizer(parameters: list[nn.Parameter], settings: Settings, lr: float) -> torch.optim.Optimizer:
    """The optimizer; biases and norm parameters are not decayed: pulling a scale to zero changes the function, not its size."""
    trained = [p for p in parameters if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    momentum = MOMENTUM if settings.schedule == "one_cycle" else 0.9
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True)


class Schedule:
    """The learning rate over the steps, or over the epochs for `plateau`."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Settings, lr: float, steps: int) -> None:
        self.each_epoch = settings.schedule == "plateau"
        self.inner: Any
        if settings.schedule == "one_cycle":
            self.inner = lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(2, steps))
        elif settings.schedule == "cosine":
            self.inner = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        elif settings.schedule == "step":
            self.inner = lr_scheduler.MultiStepLR(optimizer, milestones=[steps // 2, steps * 3 // 4])
        elif settings.schedule == "plateau":
            self.inner = lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=1)
        else:
            self.inner = lr_scheduler.ConstantLR(optimizer, factor=1.0)

    def after_step(self) -> None:
        """Move on by a step."""
        if not self.each_epoch:
            self.inner.step()

    def after_epoch(self, score: float) -> None:
        """Move on by an epoch of this score, larger is better."""
        if self.each_epoch:
            self.inner.step(score)
