"""Rules of operators that move values to other places: views, concatenations, slices."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.pruning.rules.table import ALONG, register
from compress.pruning.trace import Trace
from compress.pruning.units import Axis


@register("aten::view", "aten::_unsafe_view", "aten::reshape", "aten::_reshape_alias", "aten::flatten", "aten::unflatten")
def view(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Runs of axes with equal products are joined, split, or passed on."""
    x = args[0]
    old = [(size, axis) for size, axis in zip(x.shape, trace.axes(x), strict=True) if size != 1]
    new = [size for size in out.shape if size != 1]
    found: list[Axis] = []
    while old or new:
        axes, sizes = [old[0][1]], [old[0][0]]
        parts = [new.pop(0)]
        old.pop(0)
        while math.prod(sizes) != math.prod(parts):
            if math.prod(sizes) < math.prod(parts):
                size, axis = old.pop(0)
                sizes.append(size)
                axes.append(axis)
            else:
                parts.append(new.pop(0))
        flat = axes[0] if len(axes) == 1 else trace.units.join(tuple(axes), tuple(sizes))
        found.extend((flat,) if len(parts) == 1 else trace.units.split(flat, tuple(parts)))
    rest = iter(found)
    trace.set(out, [None if size == 1 else next(rest) for size in out.shape])


@register("aten::permute", "aten::t", "aten::transpose", "aten::numpy_T", "aten::swapaxes", "aten::movedim")
def permute(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Axes in another order."""
    axes = list(trace.axes(args[0]))
    if len(args) == 1:
        axes.reverse()
    elif len(args) == 2:
        axes = [axes[i] for i in args[1]]
    else:
        a, b = args[1:]
        axes[a], axes[b] = axes[b], axes[a]
    trace.set(out, axes)


@register("aten::squeeze", "aten::unsqueeze", "aten::unsqueeze_copy")
def resize(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Axes of size 1 come and go: the others keep their order."""
    x = args[0]
    rest = iter([axis for size, axis in zip(x.shape, trace.axes(x), strict=True) if size != 1])
    trace.set(out, [None if size == 1 else next(rest) for size in out.shape])


@register("aten::expand", "aten::expand_as")
def expand(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Axes of size 1 are repeated, and new ones stand in front."""
    axes = trace.axes(args[0])
    trace.set(out, (*[None] * (out.ndim - len(axes)), *axes))


@register("aten::repeat", "aten::tile")
def repeat(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Each place comes back as often as its axis is repeated."""
    x = args[0]
    axes = (*[None] * (out.ndim - x.ndim), *trace.axes(x))
    trace.set(out, [None if axis is None else np.tile(axis, times) for axis, times in zip(axes, args[1], strict=True)])


@register("aten::cat")
def concatenate(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """The axis of the result is that of the parts in a row."""
    parts = [x for x in args[0] if x.numel()]
    dim = args[1] % out.ndim
    axes = []
    for position in range(out.ndim):
        own = [trace.axes(x)[position] for x in parts]
        if position != dim:
            axes.append(trace.same(own, ALONG))
        elif all(axis is None for axis in own):
            axes.append(None)
        else:
            filled = [trace.units.new(x.shape[dim]) if axis is None else axis for axis, x in zip(own, parts, strict=True)]
            for axis, fill in zip(own, filled, strict=True):
                if axis is None:
                    trace.units.fix(fill, "values of a fixed number are appended")
            axes.append(np.concatenate(filled))
    trace.set(out, axes)


@register("aten::stack")
def stack(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """A new axis."""
    dim = args[1] % out.ndim
    axes = [trace.same([trace.axes(x)[i] for x in args[0]], ALONG) for i in range(out.ndim - 1)]
    trace.set(out, [*axes[:dim], None, *axes[dim:]])


@register(
    "aten::split", "aten::split_with_sizes", "aten::chunk", "aten::unsafe_split", "aten::unsafe_chunk", "aten::tensor_split"
)
def split(trace: Trace, out: Sequence[Tensor], args: list[Any]) -> None:
    """Pieces of one width lose the same places; of a cut axis they must stay of one width."""
    x, dim = args[0], args[2] % args[0].ndim
    start = 0
    for piece in out:
        _piece(trace, piece, x, dim, start, 1)
        start += piece.shape[dim]


@register("aten::glu")
def glu(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """One half times a function of the other."""
    _piece(trace, out, args[0], args[1] % args[0].ndim, 0, 1)


@register("aten::slice", "aten::narrow")
def slice_(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """`x[start:end:step]` along one axis."""
    x, dim, start = args[0], args[1] % args[0].ndim, args[2] or 0
    size = x.shape[dim]
    _piece(trace, out, x, dim, min(max(start + size if start < 0 else start, 0), size), args[4] if len(args) > 4 else 1)


def _piece(trace: Trace, out: Tensor, x: Tensor, dim: int, start: int, step: int) -> None:
    axes = list(trace.axes(x))
    axis, length = axes[dim], out.shape[dim]
    if axis is not None and length != x.shape[dim]:
        if step != 1:
            trace.units.fix(axis, "sliced in steps")
        elif length == 1:
            trace.units.fix(axis, "its places are looked up by number")
        elif not length or x.shape[dim] % length or start % length:
            trace.units.fix(axis, "sliced into unequal parts")
        else:
            pieces = axis.reshape(-1, length)
            trace.units.tie(pieces, pieces[0])
        axes[dim] = axis[start : start + length * step : step]
    trace.set(out, axes)


@register("aten::select", "aten::unbind")
def select(trace: Trace, out: Any, args: list[Any]) -> None:
    """One place of an axis, or each by itself: the axis must stay."""
    x, dim = args[0], (args[1] if len(args) > 1 else 0) % args[0].ndim
    axes = trace.axes(x)
    trace.units.fix(axes[dim], "its places are looked up by number")
    for piece in out if isinstance(out, tuple | list) else [out]:
        trace.set(piece, [*axes[:dim], *axes[dim + 1 :]])


@register("aten::index", "aten::_unsafe_index")
def index(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Places looked up by tensors of numbers; axes that are not looked up are passed on."""
    x, numbers = args[0], list(args[1]) + [None] * (args[0].ndim - len(args[1]))
    axes = trace.axes(x)
    looked_up = [i for i, number in enumerate(numbers) if number is not None]
    for i in looked_up:
        trace.units.fix(axes[i], "its places are looked up by number")
        trace.reads(x, axes[i])
    if looked_up != list(range(looked_up[0], looked_up[-1] + 1)) or any(
        numbers[i].dtype in (torch.bool, torch.uint8) for i in looked_up
    ):
        trace.fix_all(x, "its places are looked up by number")
        return
    new = out.ndim - (x.ndim - len(looked_up))
    trace.set(out, [*axes[: looked_up[0]], *[None] * new, *axes[looked_up[-1] + 1 :]])


@register("aten::index_select", "aten::gather")
def index_select(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Places of one axis looked up by a tensor of numbers."""
    axes, dim = list(trace.axes(args[0])), args[1] % args[0].ndim
    trace.units.fix(axes[dim], "its places are looked up by number")
    axes[dim] = None
    trace.set(out, axes)


@register("aten::roll", "aten::flip")
def reorder(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Places of some axes change: these must stay."""
    axes = list(trace.axes(args[0]))
    dims = args[2] if len(args) > 2 else args[1]
    for dim in dims or range(out.ndim):
        trace.units.fix(axes[dim], "its places change their order")
    trace.set(out, axes)
