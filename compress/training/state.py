"""All of a training's state as bytes, so that it goes on as if nothing had been between."""

import contextlib
import io
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.files import write_atomically


def random_state() -> dict[str, Any]:
    """The state of every global random generator, as plain data and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - users draw from it
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """The reverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write plain data and tensors, completely or not at all; layouts of tensors are kept."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def read_state(path: Path) -> dict[str, Any] | None:
    """What `write_state` wrote, without running any code that a file could hold; None where there is none or it is damaged."""
    with contextlib.suppress(OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state if isinstance(state, dict) else None
    return None
