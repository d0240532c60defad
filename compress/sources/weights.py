"""Reading weight files without ever running what is in them."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress.errors import UserError, did_you_mean

# Under these keys training scripts put the state dict; what data-parallel wrappers put before each name.
NESTED = ("state_dict", "model_state_dict", "model")
PREFIX = "module."


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a safetensors file, or in a torch file that holds tensors only (`weights_only=True`).

    Half precision becomes float32. A state dict under the key `state_dict`, and names with the prefix `module.`, are
    understood.

    Raises:
        UserError: no such file, not of these formats, torn, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such weight file: {path}")
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    else:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torn files raise many kinds; so does a pickle with code in it
            if "weights_only" in str(error) or "Unsupported" in str(error):
                reason = "it holds more than tensors, and unpickling it could run code; save the state dict alone"
            else:
                reason = "it is torn, or not a file that torch.save wrote"
            raise UserError(f"{path} cannot be loaded as a state dict: {reason}") from None
        for key in NESTED:
            if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
                loaded = loaded[key]
        if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
            found = type(loaded).__name__
            raise UserError(f"{path} cannot be loaded as a state dict: it holds a {found}, not names with tensors")
        state = loaded
    if state and all(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def load_weights_(model: nn.Module, state: dict[str, Tensor], where: Path | str) -> None:
    """Load a state dict into `model`, in place; every name and shape must fit.

    Raises:
        UserError: names the first tensor that is missing, unknown or of another shape.
    """
    own = model.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    for name, tensor in state.items():
        if name not in own:
            unknown = f"it has '{name}', which the model has not." + did_you_mean(name, list(own))[:200]
            raise UserError(f"{where} does not fit {type(model).__name__}: {unknown}")
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)} in the file, {tuple(own[name].shape)} in the model"
            raise UserError(f"{where} does not fit {type(model).__name__}: '{name}' has shape {shapes}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{where} holds a NaN or an infinity in '{name}'")
    missing = [name for name in own if name not in state and name not in optional]
    if missing:
        lacking = f"'{missing[0]}' is missing ({len(missing)} of {len(own)} are)"
        raise UserError(f"{where} does not fit {type(model).__name__}: {lacking}")
    model.load_state_dict(state, strict=False)


def classes_in(state: dict[str, Tensor]) -> int | None:
    """The number of classes that a state dict was trained for: the rows of its only two-dimensional weight; else None."""
    matrices = [tensor for tensor in state.values() if tensor.ndim == 2]
    return len(matrices[0]) if len(matrices) == 1 else None
