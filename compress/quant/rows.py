"""A convolution or linear layer as a matrix product: the rows that its weight is multiplied with."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from compress.quant.graph import CONVOLUTIONS
from compress.quant.parameters import groups_of


def sample_rows(
    layer: fx.Node, kernel: Sequence[int], inputs: Tensor, outputs: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(groups, count, K) of inputs and (groups, count, outputs / groups): what goes into, and comes out at, some positions.

    With a weight viewed as (groups, outputs / groups, K), rows @ weight^T + bias are the layer's outputs there. A position is
    a pixel of a sample, or a token; they are drawn with replacement, or all taken in order where there are no more than
    `count`.

    Args:
        layer: a node with the operator's arguments: 1d or 2d convolution, or linear.
        kernel: the weight's spatial shape; empty for a linear layer.
        inputs: what the layer reads, (batch, inputs, ...), or (..., inputs) for a linear layer.
        outputs: what stands at the layer's output, (batch, outputs, ...), or (..., outputs).
    """
    groups = groups_of(layer)
    if layer.target not in CONVOLUTIONS:
        flat, positions = inputs.flatten(0, -2), outputs.flatten(0, -2)
        chosen = _choose(len(positions), count, generator)
        return flat[chosen].unsqueeze(0), positions[chosen].unsqueeze(0)
    if len(kernel) == 1:  # as 2d with one row
        inputs, outputs = inputs.unsqueeze(2), outputs.unsqueeze(2)
    stride, padding, dilation = _geometry(layer, kernel)
    height, width = (1, *kernel)[-2:]
    padded = F.pad(inputs, padding)
    batch, _, rows, columns = outputs.shape
    chosen = _choose(batch * rows * columns, count, generator)
    sample, row, column = chosen // (rows * columns), chosen // columns % rows, chosen % columns
    down = row.view(-1, 1, 1) * stride[0] + torch.arange(height).view(1, -1, 1) * dilation[0]
    right = column.view(-1, 1, 1) * stride[1] + torch.arange(width).view(1, 1, -1) * dilation[1]
    windows = padded.movedim(1, -1)[sample.view(-1, 1, 1), down, right].movedim(-1, 1)  # (count, inputs, height, width)
    x = windows.reshape(len(chosen), groups, -1).transpose(0, 1)
    y = outputs[sample, :, row, column].view(len(chosen), groups, -1).transpose(0, 1)
    return x.contiguous(), y.contiguous()


def _choose(available: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.arange(available) if available <= count else torch.randint(available, (count,), generator=generator)


def _geometry(layer: fx.Node, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Stride, padding as `F.pad` takes it, and dilation, of a convolution seen as 2d."""
    arguments = [*layer.args[3:6], *(1, 0, 1)[len(layer.args[3:6]) :]]
    stride, dilation = _pair(arguments[0]), _pair(arguments[2])
    if isinstance(arguments[1], str):
        spans = [d * (k - 1) if arguments[1] == "same" else 0 for d, k in zip(dilation, (1, *kernel)[-2:], strict=True)]
        return stride, [spans[1] // 2, spans[1] - spans[1] // 2, spans[0] // 2, spans[0] - spans[0] // 2], dilation
    down, right = _pair(arguments[1]) if len(kernel) > 1 else (0, _pair(arguments[1])[1])
    return stride, [right, right, down, down], dilation


def _pair(value: object) -> list[int]:
    """A size for rows and one for columns, of a number or of a list of one or two."""
    values = [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]  # type: ignore[call-overload]
    return values if len(values) == 2 else values * 2
