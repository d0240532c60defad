"""Low-rank factorisation: a layer becomes two thin ones behind each other."""

from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import nn

from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.low_rank.candidates import candidates
from compress.low_rank.factorize import Spectrum, factorized, matrix_of, rank_for_ratio, rounded, saves, spectrum
from compress.passes.base import check_range


@dataclass(frozen=True)
class LowRank:
    """Replace linear layers and convolutions by two layers of low rank, wherever these have fewer weights.

    A linear layer becomes two; a k x k convolution becomes one with `rank` outputs and a 1x1 convolution behind it. Of all
    pairs with that rank it is the one nearest to the layer's weight. Multiply-adds of a layer fall by the same share as its
    weights. Grouped and transposed convolutions, shared weights, and layers whose weight other code reads stay as they are,
    with the reason in the report. Accuracy falls with the energy that is left out; recover it with `finetune`.

    Source: Denton et al. 2014, "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation", section
    3.2; Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and Detection", section 3.1.

    Args:
        energy: each layer gets the least rank that keeps this share of its weight's sum of squares, in (0, 1). None is 0.9
            where no ratio is given.
        ratio: instead of the energy, each layer gets the largest rank that leaves at most this share of its weights, in (0, 1).
        min_rank: no layer gets a rank below this, at least 1, even where `ratio` asks for it.
        round_to: ranks are multiples of this, at least 1, where a layer has room for one: rounded up for an energy, down for a
            ratio. 8 suits the kernels of common processors.
        exclude: shell patterns of layer names to leave alone.
        allow_noop: no error where no layer becomes smaller.
    """

    energy: float | None = None
    ratio: float | None = None
    min_rank: int = 1
    round_to: int = 8
    exclude: tuple[str, ...] = ()
    allow_noop: bool = False

    name: ClassVar[str] = "low_rank"
    stage: ClassVar[str] = "structure"
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.energy is not None and self.ratio is not None:
            raise UserError(f"{self.name}: energy and ratio each decide the rank; give one of them")
        for option in ("energy", "ratio"):
            value = getattr(self, option)
            if value is not None:
                check_range(self.name, option, value, 0, 1, open_ends=True)
        for option in ("min_rank", "round_to"):
            if getattr(self, option) < 1:
                raise UserError(f"{self.name}: {option} must be at least 1, got {getattr(self, option)}")

    def rank(self, parts: Spectrum) -> int:
        """The rank for a weight, which may be one that saves nothing; at most that of a full matrix of its shape."""
        out, columns = parts.matrix.shape
        if self.ratio is not None:
            rank = rank_for_ratio(out, columns, self.ratio)
        else:
            rank = parts.rank_for(0.9 if self.energy is None else self.energy)
        rank = min(max(rank, self.min_rank), out, columns)
        chosen = rounded(out, columns, rank, self.round_to, up=self.ratio is None)
        return chosen if chosen >= self.min_rank else rank

    def apply(self, artifact: Artifact) -> nn.Module:
        model = artifact.model
        try:
            layers, left = candidates(model, artifact.task.example_inputs, self.exclude)
        except Exception as error:  # the model's forward can raise anything
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise PassError(f"{self.name} cannot run the forward of {type(model).__name__} ({first[0]})") from error
        for glob in self.exclude:
            if not any(fnmatchcase(path, glob) for path in (*layers, *left)):
                raise UserError(f"{self.name}: exclude '{glob}' matches no convolution or linear layer")
        done, before, after = [], 0, 0
        for path, layer in layers.items():
            parts = spectrum(matrix_of(layer))
            out, columns = parts.matrix.shape
            rank = self.rank(parts)
            if not saves(out, columns, rank):
                left[path] = "the rank it needs would not be smaller"
                continue
            model.set_submodule(path, factorized(layer, parts, rank))
            done.append(f"{path} {rank} of {min(out, columns)} ({parts.kept(rank):.3f})")
            before, after = before + out * columns, after + rank * (out + columns)
        reasons = defaultdict(list)
        for path, reason in left.items():
            reasons[reason].append(path)
        listed = [f"{', '.join(paths)} ({reason})" for reason, paths in reasons.items()]
        if not done and not self.allow_noop:
            why = f"; left alone: {'; '.join(listed)}" if listed else ""
            raise PassError(f"{self.name} found no layer to factorise; the model from before stands{why}")
        if done:
            artifact.notes.append(f"{len(done)} layers factorised, {before} weights to {after}; rank (energy): {', '.join(done)}")
        artifact.notes.extend(f"left alone: {reason}" for reason in listed)
        return model
