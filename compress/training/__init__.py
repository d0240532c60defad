"""One training loop for fine-tuning, distillation, quantization-aware training and the zoo's own weights."""

from compress.training.batch_norm import reestimate_batch_norm
from compress.training.layout import autocast_dtype, channels_last_
from compress.training.loop import fit
from compress.training.result import Batches, Epoch, FitResult, Loss
from compress.training.settings import Settings

__all__ = [
    "Batches",
    "Epoch",
    "FitResult",
    "Loss",
    "Settings",
    "autocast_dtype",
    "channels_last_",
    "fit",
    "reestimate_batch_norm",
]
