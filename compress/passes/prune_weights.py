"""Unstructured and semi-structured pruning: zeros in the weights, in the same shapes as before."""

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.passes.base import check_range
from compress.passes.finetune import Finetune
from compress.sparsity.inputs import called
from compress.sparsity.layers import Layer, find_layers
from compress.sparsity.patterns import Blocks, NOfM, Pattern, parse
from compress.sparsity.prune import Settings, prune_weights_
from compress.sparsity.schedules import plan

NO_TIME = "ONNX Runtime on the CPU computes with zeros as with any number: they save no time there"


@dataclass(frozen=True)
class PruneWeights:
    """Set the least important weights of convolutions and linear layers to zero, and keep them zero from then on.

    What it saves are bytes, once the file is compressed; ONNX Runtime on the CPU gains no time from zeros. Later training
    holds them, and int8 keeps them: zero is a code of its own. Biases and norms stay dense.

    The first layer, if it is a convolution, and the last layer stay dense by default: they hold few weights and lose the
    most, and so the literature leaves them out (Zhu and Gupta 2017 the first convolution; Gale et al. 2019, "The State of
    Sparsity in Deep Neural Networks", the first, with less sparsity in the last; Frantar and Alistarh 2023 the head).

    Source: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks"; Sun et al. 2024, "A
    Simple and Effective Pruning Approach for Large Language Models"; Frantar and Alistarh 2023, "SparseGPT"; Zhu and Gupta
    2017, "To prune, or not to prune", for the schedules.

    Args:
        sparsity: share of these layers' weights that become zero, in (0, 1). None is 0.5, or what an N:M pattern gives.
        method: which weights matter. wanda and sparsegpt look at calibration data; sparsegpt also adjusts what stays, which
            makes it the best without training.
        scope: the same share of every layer, or one threshold for all (only magnitude, not N:M).
        pattern: unstructured; N:M along the input channels, such as 2:4, which keeps 2 of every 4; or blocks that fall
            together, outputs x inputs, such as 4x1 (not sparsegpt). Layers that a pattern does not divide stay dense.
        schedule: one_shot, without training; or while training for `epochs`: constant prunes at the start, linear and cubic
            in up to 16 steps over the first three quarters.
        epochs: of a schedule, at least 1.
        lr: peak learning rate of a schedule, above 0.
        distill: whether the original teaches a schedule's training.
        batches: how many calibration batches wanda and sparsegpt look at, at least 1.
        dense_ends: whether the first convolution and the last layer stay dense.
        exclude: shell patterns of layer names to leave dense.
        allow_noop: no error where no layer could be pruned.
    """

    sparsity: float | None = None
    method: Literal["magnitude", "wanda", "sparsegpt"] = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    pattern: str = "unstructured"
    schedule: Literal["one_shot", "constant", "linear", "cubic"] = "one_shot"
    epochs: int = 4
    lr: float = 0.01
    distill: bool = True
    batches: int = 16
    dense_ends: bool = True
    exclude: tuple[str, ...] = ()
    allow_noop: bool = False

    name: ClassVar[str] = "prune_weights"
    stage: ClassVar[str] = "sparsify"
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        pattern = self.parsed
        if self.sparsity is not None:
            check_range(self.name, "sparsity", self.sparsity, 0, 1, open_ends=True)
        if isinstance(pattern, NOfM) and self.sparsity is not None:
            given = 1 - pattern.n / pattern.m
            if not math.isclose(self.sparsity, given, abs_tol=1e-3):
                raise UserError(
                    f"{self.name}: pattern {self.pattern} gives a sparsity of {given:g}, and sparsity is {self.sparsity:g}; "
                    "leave sparsity out"
                )
        if self.method == "sparsegpt" and isinstance(pattern, Blocks) and pattern != Blocks():
            raise UserError(f"{self.name}: the block pattern {self.pattern} goes with magnitude or wanda, not with sparsegpt")
        if self.scope == "global" and (self.method != "magnitude" or isinstance(pattern, NOfM)):
            other = f"method {self.method}" if self.method != "magnitude" else f"pattern {self.pattern}"
            raise UserError(f"{self.name}: scope global goes with magnitude and without N:M, not with {other}; use scope layer")
        for option in ("epochs", "batches"):
            if getattr(self, option) < 1:
                raise UserError(f"{self.name}: {option} must be at least 1, got {getattr(self, option)}")
        check_range(self.name, "lr", self.lr, 0, float("inf"), open_ends=True)
        needs = ("calibration",) if self.method != "magnitude" else ()
        object.__setattr__(self, "needs", (*needs, "train") if self.trains else needs)

    @property
    def trains(self) -> bool:
        """Whether it prunes while training."""
        return self.schedule != "one_shot"

    @property
    def parsed(self) -> Pattern:
        """The pattern as an object."""
        return parse(self.pattern, f"{self.name}: pattern")

    @property
    def final(self) -> float:
        """The sparsity that the pruned layers end with."""
        if isinstance(self.parsed, NOfM):
            return 1 - self.parsed.n / self.parsed.m
        return 0.5 if self.sparsity is None else self.sparsity

    def apply(self, artifact: Artifact) -> nn.Module:
        model = artifact.model
        layers, dense = self.chosen(model, artifact.task.example_inputs)
        listed = "; ".join(f"{name} ({reason})" for name, reason in dense.items())
        if not layers:
            if self.allow_noop:
                return model
            why = f"; dense stay {listed}" if dense else ""
            raise PassError(f"{self.name} found no layer to prune; the model from before stands{why}")
        before = deflated_bytes(model)
        settings = Settings(self.method, self.parsed, self.scope == "global", self._batches(artifact))
        if self.schedule == "one_shot":
            self._prune(model, layers, self.final, settings)
        else:
            self._train(artifact, layers, settings)
        artifact.notes.extend(described(model, layers))
        if dense:
            artifact.notes.append(f"dense: {listed}")
        after = deflated_bytes(model)
        artifact.notes.append(f"deflated (zlib), the weights take {after / 1e6:.2f} MB, before {before / 1e6:.2f} MB; {NO_TIME}")
        return model

    def chosen(self, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[list[Layer], dict[str, str]]:
        """The layers to prune, in the order of their calls, those never called last; and name -> reason for the others.

        Raises:
            UserError: a pattern of `exclude` matches no layer.
        """
        found, dense = find_layers(model)
        names = [layer.name for layer in found]
        for glob in self.exclude:
            if not any(fnmatchcase(name, glob) for name in [*names, *dense]):
                raise UserError(f"{self.name}: exclude '{glob}' matches no convolution or linear layer")
        order = called(model, found, example_inputs)
        layers = []
        for layer in [*order, *(layer for layer in found if layer not in order)]:
            reason = self._reason(layer, order)
            if reason is None:
                layers.append(layer)
            else:
                dense[layer.name] = reason
        return layers, dense

    def _reason(self, layer: Layer, order: list[Layer]) -> str | None:
        """Why a layer stays dense; None where it is to be pruned."""
        if any(fnmatchcase(layer.name, glob) for glob in self.exclude):
            return "excluded"
        if self.dense_ends and order and layer is order[0] and isinstance(layer.module, nn.modules.conv._ConvNd):
            return "the first convolution"
        if self.dense_ends and order and layer is order[-1]:
            return "the last layer"
        if self.method != "magnitude" and layer not in order:
            return "its inputs cannot be seen"
        return self.parsed.misfit(layer)

    def _batches(self, artifact: Artifact) -> Callable[[], Iterable[tuple[Tensor, ...]]] | None:
        calibration = artifact.task.calibration
        return None if calibration is None else lambda: islice(calibration(), self.batches)

    def _prune(self, model: nn.Module, layers: list[Layer], sparsity: float, settings: Settings) -> None:
        try:
            prune_weights_(model, layers, sparsity, settings)
        except PassError as error:
            raise PassError(f"{self.name}: {error}") from None

    def _train(self, artifact: Artifact, layers: list[Layer], settings: Settings) -> None:
        """Train in place, pruning on the way."""
        prunings: dict[int, float] = {}

        def thin(step: int, steps: int) -> bool:
            if not prunings:
                prunings.update(plan(self.schedule, self.final, steps))
            if step not in prunings:
                return False
            self._prune(artifact.model, layers, prunings[step], settings)
            return True

        training = Finetune(epochs=self.epochs, lr=self.lr, distill=self.distill)
        training.train(artifact, self.name, thin)
        times = "once" if len(prunings) == 1 else f"{len(prunings)} times"
        artifact.notes.append(f"pruned {times} while training, with the {self.schedule} schedule, to {self.final:g}")


def described(model: nn.Module, layers: list[Layer]) -> list[str]:
    """Notes on how sparse the layers are, each and together, as shares of zeros."""
    zeros = {layer.name: int((layer.weight == 0).sum()) for layer in layers}
    weights, total = sum(layer.weight.numel() for layer in layers), sum(p.numel() for p in model.parameters())
    all_zeros = sum(int((p == 0).sum()) for p in model.parameters())
    each = ", ".join(f"{layer.name} {zeros[layer.name] / layer.weight.numel():.3f}" for layer in layers)
    return [
        f"{sum(zeros.values())} of {weights} weights in {len(layers)} layers are zero ({sum(zeros.values()) / weights:.3f}), "
        f"and {all_zeros / total:.3f} of all parameters",
        f"sparsity by layer: {each}",
    ]


def deflated_bytes(model: nn.Module) -> int:
    """What parameters and buffers take after zlib's default compression, as in a zip file; shared ones once."""
    deflate, size = zlib.compressobj(), 0
    seen: set[int] = set()
    for tensor in model.state_dict().values():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8) if tensor.numel() else torch.empty(0)
            size += len(deflate.compress(flat.numpy().data))
    return size + len(deflate.flush())
