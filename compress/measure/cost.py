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

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), (torch.zeros(1, 3, 10, 10),))  # 3 * 3 * 3 for each of 8 * 10 * 10 outputs
    21600
    """
    counter, samples = _counted(model, example_inputs)
    return counter.get_total_flops() // 2 // samples


@torch.no_grad()
def macs_by_layer(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Multiply-accumulates at batch size 1 inside each module that holds parameters itself, by path; 0 are left out."""
    counter, samples = _counted(model, example_inputs)
    root = type(model).__name__
    counts = counter.get_flop_counts().items()
    found = {path.removeprefix(f"{root}."): sum(flops.values()) // 2 // samples for path, flops in counts}
    holders = {path for path, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))}
    return {path: macs for path, macs in found.items() if path in holders and macs}


def _counted(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[FlopCounterMode, int]:
    """The operations of one sample; of the whole batch, and its length, where the model wants the batch of the example."""
    for inputs in (tuple(x[:1] for x in example_inputs), example_inputs):
        try:
            with FlopCounterMode(display=False) as counter:
                model.eval()(*inputs)
            return counter, max(1, len(inputs[0]))
        except Exception:  # a user's forward can raise anything
            if inputs is example_inputs:
                raise
    raise AssertionError("one of the two is the example itself")
