"""What the training passes share: fit, then batch norm statistics, then a note."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from typing import Any

from torch import nn

from compress.artifact import Artifact
from compress.outputs import predictor
from compress.training import Epoch, FitResult, Loss, Settings, fit, reestimate_batch_norm

BATCHES_FOR_STATISTICS = 16


def train_(
    artifact: Artifact,
    settings: Settings,
    loss: Loss,
    what: str,
    about: str,
    before_step: Callable[[int, int], bool] | None = None,
) -> FitResult:
    """Train the artefact's model in place, with a note that ends in `about`, and with the epochs in its details.

    Validation data are looked at only where `settings.patience` asks for it; otherwise the last epoch counts.
    """
    model, train, validate = artifact.model, artifact.task.train, artifact.task.validate
    assert train is not None
    score: Callable[[nn.Module], float] | None = None
    if settings.patience is not None and validate is not None:
        score = lambda network: validate(predictor(network))  # noqa: E731 - a closure over what was just found not to be None
    done = fit(model, train, loss, settings, what=what, before_step=before_step, validate=score, keep=artifact.progress)
    # After few steps the running statistics still lag behind the weights: measured, 81 against 87 % after 18 steps.
    reestimate_batch_norm(model, (batch[:-1] for batch in islice(train(), BATCHES_FOR_STATISTICS)))
    artifact.notes.append(f"{described(done)}{about}")
    if done.stopped is not None:
        artifact.notes.append(done.stopped)
    if done.restarts:
        artifact.notes.append(f"the loss diverged at a peak rate of {settings.lr:g}; trained anew at {settings.lr / 10:g}")
    artifact.details["training"] = rows(done)
    return done


def described(done: FitResult) -> str:
    """Steps, samples and losses in one line."""
    among = f" on {done.processes} processes" if done.processes > 1 else ""
    resumed = f", resumed behind epoch {done.resumed}" if done.resumed else ""
    losses = f"mean loss of the first epoch {_loss(done.epochs[0])}, of the last {_loss(done.epochs[-1])}"
    return f"{done.steps} steps, {done.samples} samples in {done.precision}{among}{resumed}, {losses}"


def _loss(epoch: Epoch) -> str:
    """The loss, and what it is the sum of."""
    terms = " + ".join(f"{name} {value:.4f}" for name, value in epoch.terms.items())
    return f"{epoch.loss:.4f} ({terms})" if terms else f"{epoch.loss:.4f}"


def rows(done: FitResult) -> list[dict[str, Any]]:
    """The epochs as plain data, for a report."""
    return [asdict(epoch) for epoch in done.epochs]
