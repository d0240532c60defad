"""Parameters and multiply-accumulates of a torch model."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Numbers that training could change; batch norm's running statistics and quantizers' scales are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_nonzero(model: nn.Module) -> int:
    """Parameters that are not exactly zero."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of one forward at batch size 1, in convolutions and matrix products; one multiply-add is one.

    Element-wise operations, normalisation and pooling are not counted, as in the literature's figures.
    """
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(*(x[:1] for x in example_inputs))
    return counter.get_total_flops() // 2


@torch.no_grad()
def macs_by_layer(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Multiply-accumulates at batch size 1 inside each module that holds parameters itself, by path; 0 are left out."""
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(*(x[:1] for x in example_inputs))
    root = type(model).__name__
    found = {path.removeprefix(f"{root}."): sum(flops.values()) // 2 for path, flops in counter.get_flop_counts().items()}
    holders = {path for path, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))}
    return {path: macs for path, macs in found.items() if path in holders and macs}
