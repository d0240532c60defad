"""Convolutions and linear layers as matrices: one row per output, and the inputs that each column meets.

Every method here works on matrices, so that a convolution, a linear layer and the transposed one of GPT-2 are one case.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.layers import is_transposed_linear

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Unfolded inputs are made in pieces of about this many numbers: a 3x3 convolution's are nine times its input.
CHUNK = 2**24


@dataclass(frozen=True)
class Layer:
    """A module with a weight that can be made sparse.

    The columns of its matrix are ordered by kernel position, then by input channel: N:M patterns run along the input
    channels, where hardware wants them.
    """

    name: str
    module: nn.Module

    @property
    def weight(self) -> nn.Parameter:
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def groups(self) -> int:
        """Convolution groups; 1 for a linear layer."""
        return self.module.groups if isinstance(self.module, nn.modules.conv._ConvNd) else 1

    @property
    def inputs(self) -> int:
        """Input channels that one output reads: the length of the axis that N:M patterns run along."""
        return self.weight.shape[0] if is_transposed_linear(self.module) else self.weight.shape[1]

    def matrix(self) -> Tensor:
        """The weight as (outputs, kernel positions * inputs), detached; not always a copy."""
        weight = self.weight.detach()
        return weight.t() if is_transposed_linear(self.module) else weight.movedim(1, -1).flatten(1)

    @torch.no_grad()
    def write_(self, matrix: Tensor) -> None:
        """Set the weight, in place, from a matrix of the form that `matrix` gives."""
        if is_transposed_linear(self.module):
            self.weight.copy_(matrix.t())
        else:
            self.weight.copy_(matrix.view(len(matrix), *self.weight.shape[2:], self.inputs).movedim(-1, 1))

    def is_batch(self, x: Tensor) -> bool:
        """Whether the first axis of an input is a batch of images; a convolution takes a single image, too."""
        return isinstance(self.module, nn.modules.conv._ConvNd) and x.ndim == self.weight.ndim

    def columns(self, x: Tensor) -> Iterator[Tensor]:
        """What the columns are multiplied with: pieces of (groups, samples, kernel positions * inputs), in float32.

        Args:
            x: an input of the layer. Each position that a convolution's kernel stands on is a sample.
        """
        if not isinstance(self.module, nn.modules.conv._ConvNd):
            yield x.float().reshape(1, -1, x.shape[-1])
            return
        x = x.float() if self.is_batch(x) else x.float()[None]
        images = max(1, CHUNK // max(1, x[0].numel() * self.weight[0, 0].numel()))
        for part in x.split(images):
            yield unfolded(self.module, part)


def find_layers(model: nn.Module) -> tuple[list[Layer], dict[str, str]]:
    """The layers whose weights can be sparse, in the order of definition; and name -> reason for those left out.

    A weight that two layers share is listed once. One that an embedding shares is left out: its rows are looked up, and
    zeros in them cost what no calibration of the linear layer sees.
    """
    holders: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append(module)
    layers: list[Layer] = []
    left_out: dict[str, str] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, WEIGHTED) and not is_transposed_linear(module):
            continue
        weight = module._parameters.get("weight")
        if weight is None or not weight.is_floating_point():
            left_out[name] = "its weight is computed, not stored"
        elif not all(isinstance(other, WEIGHTED) or is_transposed_linear(other) for other in holders[id(weight)]):
            left_out[name] = "its weight is an embedding's, too"
        elif id(weight) not in seen:
            seen.add(id(weight))
            layers.append(Layer(name, module))
    return layers, left_out


def unfolded(conv: nn.modules.conv._ConvNd, x: Tensor) -> Tensor:
    """The windows that a convolution sees, (groups, batch * output pixels, kernel positions * channels of a group).

    The convolution without its bias is this, group by group, times the transposed rows of the group's part of the matrix.

    Args:
        x: (batch, channels, *pixels), of one, two or three dimensions of pixels.
    """
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    sizes = zip(x.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True)
    steps = [(stride, (size - dilation * (kernel - 1) - 1) // stride) for size, kernel, stride, dilation in sizes]
    windows = []
    for offset in product(*(range(kernel) for kernel in conv.kernel_size)):
        starts = [place * dilation for place, dilation in zip(offset, conv.dilation, strict=True)]
        cut = [slice(start, start + stride * last + 1, stride) for start, (stride, last) in zip(starts, steps, strict=True)]
        windows.append(x[(slice(None), slice(None), *cut)].flatten(2))  # (batch, channels, output pixels)
    stacked = torch.stack(windows).unflatten(2, (conv.groups, -1))  # (positions, batch, groups, channels of a group, pixels)
    return stacked.permute(2, 1, 4, 0, 3).flatten(3).flatten(1, 2)
