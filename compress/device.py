"""Where passes train."""

import torch

from compress import workers
from compress.errors import UserError


def check_device(name: str) -> None:
    """Raise UserError unless it is `auto`, `cpu` or `cuda`."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device must be auto, cpu or cuda, got '{name}'")


def choose_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda`; of several processes on a machine each has a GPU of its own.

    Raises:
        UserError: another name, a GPU that is not there, or fewer of them than processes on this machine.
    """
    check_device(name)
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch sees no GPU here; use cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    here, gpus = workers.membership(), torch.cuda.device_count()
    if here.local_count > gpus:
        raise UserError(
            f"{here.local_count} processes on this machine need as many GPUs, and it has {gpus}; use fewer, or device cpu"
        )
    return torch.device("cuda", here.local_rank)
