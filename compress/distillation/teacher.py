"""The network that is learned from: its answers, and what it computes on the way."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compress.distillation.cache import Cache
from compress.outputs import first_tensor
from compress.training import autocast_dtype, channels_last_


class Teacher:
    """A frozen copy of a network in eval mode, on a device, run without gradients.

    Args:
        autocast: whether it may compute in bfloat16, where the processor has it.
        cache: where its answers are kept; only for losses that look at nothing else of it.
    """

    def __init__(self, network: nn.Module, device: torch.device, *, autocast: bool = True, cache: Cache | None = None) -> None:
        self.network = channels_last_(copy.deepcopy(network).to(device).eval())
        self.device = device
        self.dtype = autocast_dtype(device) if autocast else None
        self.cache = cache

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Its first output, in float32."""
        return self._run(inputs) if self.cache is None else self.cache.look_up(inputs, self._run)

    def _run(self, inputs: Iterable[Tensor]) -> Tensor:
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            return first_tensor(self.network(*inputs)).float()
