"""Statistics of batch norm, measured anew."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compress.errors import UserError


def reestimate_batch_norm(model: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> int:
    """Set the running statistics of every batch norm, in place, to the average over `batches` of inputs.

    What pruning leaves behind are statistics of channels that no longer see the same input; a few hundred samples mend
    them without any gradient. All else stays in eval mode, and momentum is restored. Gives the number of layers updated.

    Raises:
        UserError: there is no batch to average over.

    Source: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (precise BN).
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    device = next(model.parameters()).device
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
        layer.train()
    seen = 0
    try:
        with torch.no_grad():
            for batch in batches:
                model(*(x.to(device) for x in batch))
                seen += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
    if seen == 0:
        raise UserError("batch norm cannot be re-estimated: the calibration data are empty")
    return len(layers)
