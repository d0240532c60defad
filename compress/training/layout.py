"""How weights lie in memory and in which precision a step computes: what the kernels of this processor are fast with."""

import torch
from torch import Tensor, nn


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the processor has instructions for it (there it halves the time of a step), else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    flags = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if flags == "AVX512" and native else None


def channels_last_(model: nn.Module) -> nn.Module:
    """Lay out the weights of 2d convolutions with channels last, in place: the layout of the fast kernels on the CPU."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A batch's tensor on a device; images with channels last."""
    if tensor.ndim == 4:
        return tensor.to(device, memory_format=torch.channels_last)
    return tensor.to(device)
