"""Biases that make up for the mean error of rounded weights and inputs."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx

from compress.progress import report
from compress.quant.lockstep import Batches, lockstep
from compress.quant.parameters import bias_of, channel_axis, parameter, reads_alone, store, weight_quantizer
from compress.quant.ptq import leave_room_for_biases

SAMPLES = 256


@torch.no_grad()
def correct_biases_(graph_module: fx.GraphModule, originals: Mapping[str, Tensor], batches: Callable[[], Batches]) -> int:
    """Give every quantized layer the mean output per channel that it has in the float network, in place.

    Layer by layer in topological order, so that each is corrected for what is left of the errors before it: its bias loses
    the mean of the quantized output minus that of the float one. Layers without a bias of their own are left alone; see
    `Scheme.biases`. Gives how many biases were changed.

    Args:
        graph_module: calibrated.
        originals: the float network, see `compress.quant.lockstep`.
        batches: of inputs, anew on each call; the first `SAMPLES` are used.

    Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2 and
    appendix D (empirical bias correction).
    """
    layers = sum(weight_quantizer(graph_module, node) is not None for node in graph_module.graph.nodes)
    corrected = 0
    for done, layer in enumerate(lockstep(graph_module, originals, batches, SAMPLES), start=1):
        bias = bias_of(layer.node)
        if bias is not None and reads_alone(graph_module, bias):
            axis = channel_axis(graph_module, layer.node)
            error = _mean(list(layer.run()), axis) - _mean(layer.expected, axis)
            store(graph_module, bias, parameter(graph_module, bias).double() - error)
            corrected += 1
        report("bias correction", done, layers)
    leave_room_for_biases(graph_module)
    return corrected


def _mean(parts: list[Tensor], axis: int) -> Tensor:
    """(channels,), float64: the mean over all else."""
    by_channel = [part.double().movedim(axis, 0).flatten(1) for part in parts]
    sums = torch.stack([part.sum(1) for part in by_channel]).sum(0)
    return sums / max(1, sum(part.shape[1] for part in by_channel))
