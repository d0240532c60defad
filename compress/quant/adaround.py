"""AdaRound: whether each weight is rounded up or down is learned, for the least error of its layer's output."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from compress.progress import report
from compress.quant.lockstep import Batches, Layer, lockstep
from compress.quant.parameters import bias_of, groups_of, parameter, reads_alone, store, weight_quantizer
from compress.quant.rows import sample_rows
from compress.quant.targets import CLIPS

SAMPLES = 512
# Positions of a layer's output to learn from: at most so many, and no more than this many bytes of rows.
ROWS, ROWS_BYTES = 65536, 2**28
ROWS_PER_STEP = 512
LEARNING_RATE = 0.03
# The rectified sigmoid reaches beyond [0, 1] by a tenth on each side, so that it gets to both ends.
STRETCH = 1.2
# Beta goes from the first to the second; before that, for a share of the steps, nothing pulls towards 0 or 1.
BETA, FREE = (20.0, 2.0), 0.2
# Weight of the pull beside the error, which is counted in errors of rounding to nearest.
PULL = 10.0


@torch.no_grad()
def adaround_(
    graph_module: fx.GraphModule, originals: Mapping[str, Tensor], batches: Callable[[], Batches], *, steps: int, seed: int = 0
) -> int:
    """Round the weight of every quantized layer up or down so that its output is that of the float network, in place.

    Layer by layer in topological order: inputs are those of the quantized network with all layers before already rounded,
    targets those of the float network, both behind the ReLU where one follows. The stored weight becomes scale * code. Weights
    that are zero stay so; weights that several layers share are rounded to nearest. Gives how many layers were done.

    Args:
        graph_module: calibrated; the scales of weights stay.
        originals: the float network, see `compress.quant.lockstep`.
        batches: of inputs, anew on each call; the first `SAMPLES` are used, and of each layer's output `ROWS` positions.
        steps: of Adam, for each layer.
        seed: of the choice of positions.

    Source: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", section 3, equations 20 to 25.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = sum(weight_quantizer(graph_module, node) is not None for node in graph_module.graph.nodes)
    rounded = 0
    for done, layer in enumerate(lockstep(graph_module, originals, batches, SAMPLES), start=1):
        of_weight = layer.node.args[1]
        assert isinstance(of_weight, fx.Node)
        if len(of_weight.users) == 1 and reads_alone(graph_module, of_weight.args[0]):
            store(graph_module, of_weight.args[0], _rounded_weight(graph_module, layer, steps, generator))
            rounded += 1
        report("adaround", done, layers)
    return rounded


def _rounded_weight(graph_module: fx.GraphModule, layer: Layer, steps: int, generator: torch.Generator) -> Tensor:
    """scale * code, in the weight's shape."""
    weight = parameter(graph_module, layer.node.args[1])
    quantizer, bias, groups = weight_quantizer(graph_module, layer.node), bias_of(layer.node), groups_of(layer.node)
    assert quantizer is not None
    scale = quantizer.scale.expand(len(weight)).reshape(groups, -1, 1)
    shift = parameter(graph_module, bias) if bias is not None else weight.new_zeros(len(weight))
    x, y = _rows(layer, weight, generator)
    codes = learn_codes(
        weight.reshape(groups, len(weight) // groups, -1) / scale,
        scale,
        shift.view(groups, 1, -1),
        x,
        y,
        largest_code=quantizer.largest_code,
        steps=steps,
        activation=clip_behind(layer.node),
    )
    return (codes * scale).view_as(weight)


def _rows(layer: Layer, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of the layer's input and output, an equal share from each batch, in random order."""
    bytes_of_row = 4 * (weight[0].numel() * groups_of(layer.node) + len(weight))
    count = max(1, min(ROWS, ROWS_BYTES // bytes_of_row) // len(layer.inputs))
    kernel = weight.shape[2:]
    parts = [sample_rows(layer.node, kernel, x, y, count, generator) for x, y in zip(layer.inputs, layer.expected, strict=True)]
    x, y = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    order = torch.randperm(x.shape[1], generator=generator)
    return x[:, order], y[:, order]


def clip_behind(layer: fx.Node) -> Callable[[Tensor], Tensor]:
    """The ReLU, or another clip, that alone reads a layer's output; else what changes nothing."""
    reader = next(iter(layer.users)) if len(layer.users) == 1 else None
    if reader is None or reader.target not in CLIPS:
        return lambda y: y
    target: Any = reader.target
    return lambda y: target(y, *reader.args[1:], **reader.kwargs)


@torch.enable_grad()
def learn_codes(
    exact: Tensor,
    scale: Tensor,
    shift: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    largest_code: int,
    steps: int,
    activation: Callable[[Tensor], Tensor] = lambda y: y,
) -> Tensor:
    """(groups, outputs, K): whole numbers, each `exact` rounded up or down, within [-largest_code, largest_code].

    Args:
        exact: (groups, outputs, K), the weight over its scale; zeros stay.
        scale: (groups, outputs, 1).
        shift: (groups, 1, outputs), the bias.
        x: (groups, rows, K), y: (groups, rows, outputs): what goes in, and what should come out before `activation`.
        steps: of Adam on `ROWS_PER_STEP` rows each.
    """
    down, rest = exact.floor(), exact - exact.floor()
    inside = (rest + (STRETCH - 1) / 2) / STRETCH
    variable = (inside / (1 - inside)).log().requires_grad_()  # where the rectified sigmoid gives `rest`
    moves = (exact != 0).float()
    optimizer = torch.optim.Adam([variable], lr=LEARNING_RATE)

    def outputs(codes: Tensor, rows: Tensor) -> Tensor:
        return activation(torch.baddbmm(shift, rows, (codes * scale).transpose(1, 2)))

    with torch.no_grad():
        target = activation(y.clone())
        nearest = outputs(exact.round().clamp(-largest_code, largest_code), x)
        unit = (nearest - target).square().mean().clamp(min=1e-30)
    for step in range(steps):
        start = step * ROWS_PER_STEP % x.shape[1]
        rows = slice(start, start + ROWS_PER_STEP)
        share = rectified_sigmoid(variable) * moves
        codes = (down + share).clamp(-largest_code, largest_code)
        loss = (outputs(codes, x[:, rows]) - target[:, rows]).square().mean() / unit
        if step >= FREE * steps:
            beta = _beta((step / steps - FREE) / (1 - FREE))
            loss = loss + PULL * (1 - (2 * share - 1).abs() ** beta).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    up = (rectified_sigmoid(variable.detach()) >= 0.5).float() * moves
    return (down + up).clamp(-largest_code, largest_code)


def rectified_sigmoid(variable: Tensor) -> Tensor:
    """Equation 23: a sigmoid stretched beyond [0, 1] and cut off there, so that it can end at exactly 0 or 1."""
    return (variable.sigmoid() * STRETCH - (STRETCH - 1) / 2).clamp(0, 1)


def _beta(progress: float) -> float:
    """A cosine from the first of `BETA` to the second, as progress goes from 0 to 1."""
    first, last = BETA
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
