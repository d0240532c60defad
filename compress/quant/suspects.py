"""Which layers are to blame, by a cheap error: where a search for layers to leave in float begins."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, fx, nn

from compress.quant.fake_quantize import WeightQuantizer
from compress.quant.layer_errors import layer_errors
from compress.quant.ptq import calibrate


@torch.no_grad()
def worst_layers(graph_module: fx.GraphModule, batches: Callable[[], Iterable[tuple[Tensor, ...]]], ranges: str) -> list[str]:
    """Names of the convolutions and linear layers that are in integers, those first that lose most by themselves.

    By the error of single channels, since one large channel leaves the others hardly a code, and the whole without a trace
    of it; and with the ranges that exact weights need, since behind a layer that its integers ruin the ranges are ruined,
    too, which is not the fault of the layers there.

    Args:
        graph_module: with quantizers, not calibrated; its ranges are set.
        batches: of inputs, anew on each call.
        ranges: as `compress.quant.ptq.calibrate` takes it.
    """
    weights = {path: module for path, module in graph_module.named_modules() if isinstance(module, WeightQuantizer)}
    for path in weights:
        graph_module.set_submodule(path, nn.Identity())
    calibrate(graph_module, batches, ranges)
    for path, quantizer in weights.items():
        graph_module.set_submodule(path, quantizer)
    worst: dict[str, float] = {}
    for layer in layer_errors(graph_module, batches())[0]:
        if layer.bits is not None and layer.kind in ("conv", "linear"):
            name, error = layer.name.partition("#")[0], math.inf if layer.channel_db is None else layer.channel_db
            worst[name] = min(error, worst.get(name, math.inf))
    return sorted(worst, key=worst.__getitem__)
