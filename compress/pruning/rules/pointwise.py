"""Rules of operators that work on each value by itself."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from compress.pruning.rules.table import ALONG, register
from compress.pruning.trace import Trace
from compress.pruning.units import Axis


def pointwise(trace: Trace, out: Any, args: list[Any]) -> None:
    """Broadcast operators: axes that lie above each other are tied."""
    inputs = [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.ndim]
    for result in tree_leaves(out):
        if not isinstance(result, Tensor):
            continue
        axes: list[Axis] = []
        for position in range(-result.ndim, 0):
            size = result.shape[position]
            above = [x for x in inputs if x.ndim >= -position and x.shape[position] == size and size > 1]
            axes.append(trace.same([trace.axes(x)[position] for x in above], ALONG))
        trace.set(result, axes)


@register(
    "aten::clone", "aten::detach", "aten::alias", "aten::_to_copy", "aten::lift_fresh", "aten::lift_fresh_copy",
    "aten::zeros_like", "aten::ones_like", "aten::empty_like", "aten::full_like", "aten::rand_like", "aten::bernoulli",
    "aten::contiguous", "aten::dropout", "aten::fill", "aten::zero",
)  # fmt: skip
def same_shape(trace: Trace, out: Any, args: list[Any]) -> None:
    """The result has the axes of the first argument."""
    trace.set(out, trace.axes(args[0]))


@register("aten::as_strided")
def restride(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Another layout in memory; another shape is more than can be followed."""
    if out.shape == args[0].shape:
        trace.set(out, trace.axes(args[0]))
    else:
        trace.fix_all(args[0], "its memory is read in another shape")


register("aten::copy", "aten::masked_fill", "aten::where", "aten::prelu", "aten::_prelu_kernel", "aten::native_dropout")(
    pointwise
)


# Activations that torch's registry does not tag as pointwise.
register("aten::hardswish", "aten::log_sigmoid_forward")(pointwise)


@register("aten::new_zeros", "aten::new_ones", "aten::new_full", "aten::new_empty", "aten::new_empty_strided")
def made_anew(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Takes no more than the type of its argument; its own size is written in the code."""
