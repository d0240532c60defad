"""The tokenizer that lies beside a text model."""

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from compress.errors import UserError
from compress.sources.libraries import first_line, import_library, quiet

TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")
# One of these holds the vocabulary. Without any, transformers would make up a tokenizer that knows no word.
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")


def tokenizer_in(folder: Path, name: str, longest: int | None) -> Any:
    """The tokenizer in a folder that `save_pretrained` wrote, or None where there is none.

    Args:
        longest: the number of positions that the model knows; the tokenizer's own limit is lowered to it.

    Raises:
        UserError: its files are there, but cannot be loaded.
    """
    if not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
        return None
    transformers = import_library("transformers", "'transformers>=5'")
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise UserError(f"the tokenizer of {name} cannot be loaded: {first_line(error)}") from error
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest or tokenizer.model_max_length)
    return tokenizer


def input_order(model: nn.Module, tokenizer: Any) -> list[str]:
    """The tokenizer's outputs that the model takes, as far as they are the first parameters of its `forward`.

    Inputs are given by position, in torch and in ONNX; so a tokenizer's output behind a gap is left out (XLNet's
    `token_type_ids`, whose default the model fills in).
    """
    given = list(tokenizer.model_input_names) if tokenizer is not None else ["input_ids", "attention_mask"]
    order = []
    for parameter in inspect.signature(model.forward).parameters:
        if parameter not in given:
            break
        order.append(parameter)
    return order
