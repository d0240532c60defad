"""What torch has no class for, told by its looks."""

from torch import nn


def is_transposed_linear(module: nn.Module) -> bool:
    """GPT-2's `Conv1D` of transformers, told by name so that the library need not be imported: its weight is (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")
