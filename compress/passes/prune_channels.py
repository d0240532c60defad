"""Structured pruning: fewer channels, a smaller network, no special runtime."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.passes.base import check_range
from compress.pruning.channels import PRUNABLE, prune_channels_


@dataclass(frozen=True)
class PruneChannels:
    """Remove the channels with the smallest L2 norm from every group of coupled layers.

    Accuracy right afterwards is near chance; recover it with `reestimate_bn` and `finetune`.

    Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"; Li et al. 2017, "Pruning Filters for Efficient
    ConvNets".

    Args:
        ratio: share of the channels of each group, in (0, 1); parameters and MACs fall by about 1 - (1 - ratio)^2.
        round_to: widths that are left are multiples of this, at least 1; 8 suits the kernels of common processors.
        exclude: shell patterns of layer names to leave alone, such as `layer4.*`.
        allow_noop: no error where nothing could be removed.
    """

    ratio: float = 0.5
    round_to: int = 8
    exclude: tuple[str, ...] = ()
    allow_noop: bool = False

    name: ClassVar[str] = "prune_channels"
    stage: ClassVar[str] = "structure"
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_range(self.name, "ratio", self.ratio, 0, 1, open_ends=True)
        if self.round_to < 1:
            raise UserError(f"{self.name}: round_to must be at least 1, got {self.round_to}")

    def apply(self, artifact: Artifact) -> nn.Module:
        if not any(isinstance(module, PRUNABLE) for module in artifact.model.modules()):
            raise UserError(f"{self.name}: {type(artifact.model).__name__} has no convolution or linear layer that could be cut")
        try:
            changed = prune_channels_(
                artifact.model, artifact.task.example_inputs, ratio=self.ratio, round_to=self.round_to, exclude=self.exclude
            )
        except UserError:
            raise
        except Exception as error:  # torch-pruning fails with whatever the model's forward raises
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise PassError(
                f"{self.name} cannot follow the structure of {type(artifact.model).__name__} ({first[0]}); leave the layers "
                f"around this operation alone with exclude, for example --pass '{self.name}:exclude=NAME.*'"
            ) from error
        if changed:
            widths = ", ".join(f"{name} {before}->{after}" for name, (before, after) in changed.items())
            artifact.notes.append(f"{len(changed)} layers narrowed: {widths}")
        return artifact.model
