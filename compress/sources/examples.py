"""Inputs of the right shape for a model that comes without data: enough to follow, cut and count it, not to judge it."""

from typing import Any

import torch
from torch import Tensor

from compress.sources.source import Source

TOKENS = 32


def example_inputs(source: Source) -> tuple[Tensor, ...] | None:
    """Random pixels of the model's size, or random words of its vocabulary, batch 2; None where neither is known.

    The same on each call.
    """
    generator = torch.Generator().manual_seed(0)
    config: dict[str, Any] = source.origin.get("config") or {}
    if source.preprocess is not None:
        return (torch.randn(2, source.preprocess.channels, *source.preprocess.size, generator=generator),)
    if source.origin.get("task") == "text" and config.get("vocab_size"):
        length = min(TOKENS, config.get("max_position_embeddings") or TOKENS)
        words = torch.randint(0, config["vocab_size"], (2, length), generator=generator)
        # Beside the words there are masks, of ones, and kinds of sentences, of zeros.
        made = {"input_ids": words, "token_type_ids": torch.zeros_like(words)}
        return tuple(made.get(name, torch.ones_like(words)) for name in source.origin["inputs"])
    size = config.get("image_size")
    if source.origin.get("task") == "image" and size:
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return (torch.randn(2, config.get("num_channels", 3), height, width, generator=generator),)
    return None
