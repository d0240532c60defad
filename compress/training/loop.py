"""The loop."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress import workers
from compress.errors import PassError, UserError
from compress.outputs import first_tensor
from compress.progress import report, tell
from compress.sparsity.masks import Zeros, keep_zeros
from compress.training.kept import Kept
from compress.training.layout import autocast_dtype, channels_last_, to_device
from compress.training.log import Log
from compress.training.mixup import Mixture
from compress.training.parts import average_statistics_, fair_share_of_cores, own_random_numbers, parts, sum_gradients_
from compress.training.result import Batches, Epoch, FitResult, Loss
from compress.training.settings import Schedule, Settings, make_optimizer
from compress.training.state import random_state, read_state, set_random_state, write_state
from compress.training.tally import Tally, groups

STATE, CSV = "training.pt", "training.csv"
GROWTH = 100  # times the loss of the first steps, or 1 where that is larger: what counts as diverged


def fit(
    model: nn.Module,
    train: Callable[[], Batches],
    loss: Loss,
    settings: Settings,
    *,
    what: str = "train",
    before_step: Callable[[int, int], bool] | None = None,
    autocast: bool = True,
    validate: Callable[[nn.Module], float] | None = None,
    after_epoch: Callable[[Epoch], None] | None = None,
    keep: Path | None = None,
) -> FitResult:
    """Train `model` in place.

    Convolution weights run in channels-last layout and, where the processor has it, under bfloat16 autocast; parameters
    stay float32. Zeros in the weights of sparse layers stay zero. The model is left in eval mode. Where the loss becomes no
    number, or grows a hundredfold, training stops and the model is as it was after the last epoch, or the best.

    Among several processes (`compress.workers`) all of them call this, each computes a part of every batch, and the step is
    that of the whole. Batch norm, mixup, and losses that compare samples see the part. Rank 0 alone asks for batches and for
    scores and writes, and where it stops, all do; each begins with its weights.

    Args:
        train: gives one epoch of `(*inputs, target)` batches on each call.
        loss: where it is a module, its parameters are trained along. One that is a sum may have the parts of the value that it
            gave last as `terms`, by name, which are counted along.
        what: for progress and messages.
        before_step: called with the steps done and the steps in all; true where it wrote zeros into sparse layers, which are
            held from then on. After a resumption the steps done do not begin at 0.
        autocast: False computes in float32 everywhere.
        validate: scores the model, averaged where asked for, after each epoch; it ends as it was after the best one.
        after_epoch: called with each epoch.
        keep: a folder for the state after each epoch and a CSV of them; what a killed process left there is gone on with, to
            the same numbers on a CPU as without the interruption, by as many processes; `compress.progress.tell` says so.

    Raises:
        UserError: `train` gives no batch.
        PassError: the loss is no number, or diverges, in the first epoch; names the step.
    """
    steps = workers.told(lambda: math.ceil(count_batches(train()) / settings.accumulate))
    if steps == 0:
        raise UserError(f"{what}: the training data are empty")
    if settings.patience is not None and validate is None:
        raise UserError(f"{what}: patience needs validation data to stop by")
    channels_last_(model)
    workers.equal_(tensor for part in (model, loss) if isinstance(part, nn.Module) for tensor in part.state_dict().values())
    own_random_numbers()
    score = None if validate is None else lambda network: workers.told(lambda: validate(network))
    run = _Run(model, loss, settings, steps, autocast=autocast, validate=score)
    path = keep / STATE if keep is not None else None
    writes = workers.first()
    log = Log(keep / CSV if keep is not None and writes else None, settings.tensorboard if writes else None, what)
    with keep_zeros(model) as zeros, fair_share_of_cores():
        state = workers.told(lambda: read_state(path)) if path is not None else None
        if state is not None:
            run.load_state_dict(state)
            zeros.renew()
            tell(f"{what} goes on behind epoch {len(run.epochs)} of {settings.epochs}")
        resumed = len(run.epochs)
        while not run.finished:
            try:
                run.epoch(train, zeros, what, before_step)
            except _DivergedError as error:
                if settings.retry and run.restarts == 0:
                    run.restart(zeros)
                    continue
                if not run.epochs:
                    hint = f"; try a lower lr than {run.lr:g}" + ("" if settings.retry else ", or retry")
                    raise PassError(f"{error}{hint}") from None
                run.stop(str(error))
            else:
                log.write(run.epochs)
                if after_epoch is not None and writes:
                    after_epoch(run.epochs[-1])
            if path is not None:
                others = workers.gathered(run.own_state())[1:]
                if writes:
                    write_state(path, {**run.state_dict(), "others": others})
        run.kept.finish_(zeros.write_)
    log.close()
    return FitResult(tuple(run.epochs), run.precision, run.stopped, run.restarts, workers.count(), resumed)


def count_batches(batches: Batches) -> int:
    """Batches in an epoch; iterates over all of them where there is no `len`."""
    return len(batches) if hasattr(batches, "__len__") else sum(1 for _ in batches)  # type: ignore[arg-type]


class _DivergedError(Exception):
    """The loss is no number, or far above where it began; says which, and when."""


class _Run:
    """A training between two epochs: everything that goes on, and the way to write it down."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        settings: Settings,
        steps: int,
        *,
        autocast: bool,
        validate: Callable[[nn.Module], float] | None,
    ) -> None:
        self.model, self.loss, self.settings = model, loss, settings
        self.steps = steps * settings.epochs
        self.steps_per_epoch = steps
        self.device = next(model.parameters()).device
        self.dtype = autocast_dtype(self.device) if autocast else None
        self.kept = Kept(model, settings.average, validate)
        self.epochs: list[Epoch] = []
        self.early: list[float] = []  # the first losses, by which divergence is judged
        self.stopped: str | None = None
        self.restarts = 0
        self.start = self._weights() if settings.retry else None
        self._begin(settings.lr)

    def _begin(self, lr: float) -> None:
        self.lr = lr
        learned = self.loss.parameters() if isinstance(self.loss, nn.Module) else ()
        self.parameters = [*self.model.parameters(), *learned]
        self.optimizer = make_optimizer(self.parameters, self.settings, lr)
        self.schedule = Schedule(self.optimizer, self.settings, lr, self.steps)
        self.safe = self._weights()

    @property
    def precision(self) -> str:
        """Of the forward."""
        return "float32" if self.dtype is None else str(self.dtype).removeprefix("torch.")

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.stopped is not None or len(self.epochs) == self.settings.epochs

    def epoch(
        self, train: Callable[[], Batches], zeros: Zeros, what: str, before_step: Callable[[int, int], bool] | None
    ) -> None:
        """One pass over the data, its score, and what follows from it."""
        number = len(self.epochs) + 1
        steps, samples = (self.epochs[-1].steps, self.epochs[-1].samples) if self.epochs else (0, 0)
        tally, rate = Tally(), self.lr
        self.model.train()
        for group in tally.waiting(groups(parts(train), self.settings.accumulate)):
            if before_step is not None and before_step(steps, self.steps):
                workers.equal_(self.model.parameters())
                zeros.renew()
            self.optimizer.zero_grad(set_to_none=True)
            for part in group:
                value, logits, target = self._forward(part.tensors)
                found = tally.add(value, logits, target, part.share, getattr(self.loss, "terms", {}))
                self._check(found, f"in epoch {number} of {self.settings.epochs}, at step {steps + 1}, batch {tally.batches}")
                (part.share * value / len(group)).backward()
            sum_gradients_(self.parameters)
            if self.settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
            rate = self.optimizer.param_groups[0]["lr"]
            self.optimizer.step()
            self.schedule.after_step()
            self.kept.after_step()
            steps += 1
            report(what, steps, self.steps, tally.note() if steps % 10 == 0 else "")
        average_statistics_(self.model)
        done = tally.epoch(number, steps, samples + tally.samples, rate)
        done = replace(done, score=self.kept.after_epoch(zeros.write_))
        self.epochs.append(done)
        self.schedule.after_epoch(-done.loss if done.score is None else done.score)
        self.safe = self._weights()
        patience = self.settings.patience
        if patience is not None and self.kept.since_best >= patience and not self.finished:
            best = number - self.kept.since_best
            self.stopped = f"stopped after epoch {number} of {self.settings.epochs}, {patience} after the best, epoch {best}"

    def _forward(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of a batch, its logits and its target."""
        *inputs, target = (to_device(x, self.device) for x in batch)
        mixture = Mixture.draw(len(target), self.settings.mixup, self.device) if self.settings.mixup else None
        if mixture is not None:
            inputs = mixture.inputs(inputs)
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits = first_tensor(self.model(*inputs)).float()
        if mixture is not None:
            target = mixture.target(target, logits.shape[-1])
        return self.loss(logits, tuple(inputs), target), logits.detach(), target

    def _check(self, found: float, where: str) -> None:
        if len(self.early) < 10 and math.isfinite(found):
            self.early.append(found)
        limit = GROWTH * max(1.0, sum(self.early) / max(1, len(self.early)))
        if not found <= limit:  # so for NaN, too
            raise _DivergedError(f"the loss became {found:.4g} {where}")

    def restart(self, zeros: Zeros) -> None:
        """Begin again, from the weights before training, at a tenth of the rate."""
        assert self.start is not None
        self._load_weights(self.start)
        zeros.renew()
        self.kept = Kept(self.model, self.settings.average, self.kept.score)
        self.epochs, self.early = [], []
        self.restarts += 1
        self._begin(self.lr / 10)

    def stop(self, why: str) -> None:
        """End with the weights of the best epoch, or of the last that was finished."""
        self._load_weights(self.safe)
        best = len(self.epochs) - self.kept.since_best
        self.stopped = f"{why}; the weights are those after epoch {best}"

    def _weights(self) -> dict[str, Any]:
        parts = {"model": self.model.state_dict()}
        if isinstance(self.loss, nn.Module):
            parts["loss"] = self.loss.state_dict()
        return {name: {key: tensor.clone() for key, tensor in part.items()} for name, part in parts.items()}

    def _load_weights(self, weights: dict[str, Any]) -> None:
        self.model.load_state_dict(weights["model"])
        if isinstance(self.loss, nn.Module):
            self.loss.load_state_dict(weights["loss"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        return {
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.inner.state_dict(),
            "kept": self.kept.state_dict(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "early": self.early,
            "stopped": self.stopped,
            "restarts": self.restarts,
            "lr": self.lr,
            "random": random_state(),
        }

    def own_state(self) -> dict[str, Any]:
        """What is this process's own among several: its random numbers, and buffers such as a queue of the samples it saw."""
        return {"random": random_state(), "buffers": [buffer.cpu() for buffer in self._buffers()]}

    def _buffers(self) -> list[Tensor]:
        return [buffer for part in (self.model, self.loss) if isinstance(part, nn.Module) for buffer in part.buffers()]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`, and of `own_state` where the state has this process's among `others`."""
        self._load_weights(state["weights"])
        self._begin(state["lr"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.inner.load_state_dict(state["schedule"])
        self.kept.load_state_dict(state["kept"])
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.early, self.stopped, self.restarts = state["early"], state["stopped"], state["restarts"]
        rank = workers.membership().rank
        if rank == 0:
            set_random_state(state["random"])
        elif rank <= len(state["others"]):
            own = state["others"][rank - 1]
            set_random_state(own["random"])
            for buffer, saved in zip(self._buffers(), own["buffers"], strict=True):
                buffer.copy_(saved)
