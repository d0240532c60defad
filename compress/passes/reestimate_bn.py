"""Batch norm statistics anew, after the layers in front changed."""

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from torch import nn

from compress.artifact import Artifact
from compress.errors import UserError
from compress.training import reestimate_batch_norm


@dataclass(frozen=True)
class ReestimateBatchNorm:
    """Set the running statistics of every batch norm to their average over the calibration data.

    Needs no labels and no training, takes seconds, and brings back a good part of what pruning lost.

    Source: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3.

    Args:
        batches: how many calibration batches to average over, at least 1.
        allow_noop: no error where the model has no batch norm.
    """

    batches: int = 16
    allow_noop: bool = False

    name: ClassVar[str] = "reestimate_bn"
    stage: ClassVar[str] = "recover"
    needs: ClassVar[tuple[str, ...]] = ("calibration",)

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise UserError(f"{self.name}: batches must be at least 1, got {self.batches}")

    def apply(self, artifact: Artifact) -> nn.Module:
        assert artifact.task.calibration is not None
        count = reestimate_batch_norm(artifact.model, islice(artifact.task.calibration(), self.batches))
        artifact.notes.append(f"{count} batch norm layers re-estimated")
        return artifact.model
