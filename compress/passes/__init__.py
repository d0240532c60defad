"""What you can ask for: the built-in passes by name, and those of other packages.

A pass is any object with the members of `Pass`; a frozen dataclass is the easy way to make one. Its fields are its Python
arguments, its recipe keys and its `--pass NAME:key=value` options.
"""

from importlib import import_module, metadata
from typing import Any

from compress.errors import UserError, did_you_mean
from compress.passes.base import ORDER, Pass

# name -> module and class, imported on use. A new pass is one file, one line here, one test file.
BUILT_IN = {
    "prune_channels": ("compress.passes.prune_channels", "PruneChannels"),
    "low_rank": ("compress.passes.low_rank", "LowRank"),
    "prune_weights": ("compress.passes.prune_weights", "PruneWeights"),
    "reestimate_bn": ("compress.passes.reestimate_bn", "ReestimateBatchNorm"),
    "finetune": ("compress.passes.finetune", "Finetune"),
    "distill": ("compress.passes.distill", "Distill"),
    "cluster": ("compress.passes.cluster", "Cluster"),
    "int8": ("compress.passes.int8", "Int8"),
    "int8_dynamic": ("compress.passes.int8_dynamic", "Int8Dynamic"),
    "weight_only": ("compress.passes.weight_only", "WeightOnly"),
    "qat": ("compress.passes.qat", "QAT"),
}
ENTRY_POINTS = "compress.passes"

__all__ = ["BUILT_IN", "ORDER", "Pass", "find", "names"]


def names() -> list[str]:
    """All passes that can be asked for by name, the built-in ones first."""
    return [*BUILT_IN, *sorted({entry.name for entry in metadata.entry_points(group=ENTRY_POINTS)} - set(BUILT_IN))]


def find(name: str) -> type[Any]:
    """The class of a pass.

    Raises:
        UserError: no pass has this name, or two packages claim it.
    """
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        return getattr(import_module(module), attribute)
    entries = list(metadata.entry_points(group=ENTRY_POINTS, name=name))
    if len(entries) > 1:
        packages = ", ".join(sorted(entry.dist.name if entry.dist else entry.value for entry in entries))
        raise UserError(f"two packages offer a pass named '{name}': {packages}; uninstall one of them")
    if not entries:
        raise UserError(f"unknown pass '{name}'." + did_you_mean(name, names()))
    return entries[0].load()
