"""Training that brings accuracy back, with the untouched original as teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from compress.artifact import Artifact
from compress.distillation import Options, Teacher, objective
from compress.passes.base import check_range
from compress.passes.recovery import train_
from compress.training import Settings
from compress.training.settings import check


@dataclass(frozen=True)
class Finetune(Settings):
    """Train for a few epochs under a one-cycle schedule, by default towards the original's outputs.

    Batch norm statistics are re-estimated at the end, on training batches. For other teachers and losses see the pass `distill`.

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network".

    Args:
        distill: whether the original teaches; otherwise plain cross entropy.
        temperature: softens the teacher's distribution, above 0.
        alpha: weight of the teacher against the labels, in [0, 1].
        label_smoothing: share of a label that is spread over all classes, in [0, 1).
        allow_noop: no error where training changed no number.
        epochs, lr, weight_decay, optimizer, schedule, accumulate, clip_norm, average, mixup, patience, retry, tensorboard: of
            the training, see `compress.training.Settings`.
    """

    distill: bool = True
    temperature: float = 4.0
    alpha: float = 0.9
    label_smoothing: float = 0.0
    allow_noop: bool = False

    name: ClassVar[str] = "finetune"
    stage: ClassVar[str] = "recover"
    needs: ClassVar[tuple[str, ...]] = ("train",)

    def __post_init__(self) -> None:
        check(self, self.name)
        check_range(self.name, "temperature", self.temperature, 0, float("inf"), open_ends=True)
        check_range(self.name, "alpha", self.alpha, 0, 1, open_ends=False)
        check_range(self.name, "label_smoothing", self.label_smoothing, 0, 0.999, open_ends=False)
        if self.patience is not None:
            object.__setattr__(self, "needs", ("train", "validate"))

    def apply(self, artifact: Artifact) -> nn.Module:
        return self.train(artifact, self.name)

    def train(self, artifact: Artifact, what: str, before_step: Callable[[int, int], bool] | None = None) -> nn.Module:
        """The artefact's model, trained in place, with a note on the training; for passes that train while they compress.

        Args:
            what: the pass, for progress and messages.
            before_step: see `compress.training.fit`.
        """
        model = artifact.model
        weights = soft_labels(self.alpha if self.distill else 0.0)
        teacher = Teacher(artifact.reference, next(model.parameters()).device) if "kd" in weights else None
        options = Options(self.temperature, self.label_smoothing)
        with objective(model, teacher, weights, artifact.task.example_inputs, options=options) as loss:
            train_(artifact, self, loss, what, "" if teacher is None else ", distilled from the original", before_step)
        return model


def soft_labels(alpha: float) -> dict[str, float]:
    """The losses of Hinton et al. with this weight of the teacher against the labels; those of weight 0 left out."""
    return {name: weight for name, weight in (("kd", alpha), ("ce", 1 - alpha)) if weight > 0}
