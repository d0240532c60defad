"""Rules of operators along whole axes: sums, softmax, pools, padding."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from compress.pruning.rules.table import register
from compress.pruning.trace import Trace


@register(
    "aten::mean", "aten::sum", "aten::amax", "aten::amin", "aten::var", "aten::std", "aten::var_mean", "aten::prod",
    "aten::logsumexp", "aten::any", "aten::all", "aten::argmax", "aten::argmin", "aten::max", "aten::min",
)  # fmt: skip
def reduce(trace: Trace, out: Any, args: list[Any]) -> None:
    """What is summed over must stay; the rest is passed on."""
    x = args[0]
    given = args[1] if len(args) > 1 and isinstance(args[1], list | tuple | int) and not isinstance(args[1], bool) else None
    dims = {d % x.ndim for d in ([given] if isinstance(given, int) else given or range(x.ndim))}
    axes = trace.axes(x)
    for dim in dims:
        trace.units.fix(axes[dim], "summed over, or compared, as a whole")
    for result in tree_leaves(out):
        kept = result.ndim == x.ndim
        trace.set(result, [None if i in dims else axis for i, axis in enumerate(axes) if kept or i not in dims])


@register("aten::linalg_vector_norm", "aten::norm")
def norm(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Has its exponent in front of the axes."""
    reduce(trace, out, [args[0], *args[2:]])


@register("aten::_softmax", "aten::softmax", "aten::_log_softmax", "aten::log_softmax", "aten::cumsum", "aten::_safe_softmax")
def along(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Values of one axis depend on each other: it must stay."""
    axes = trace.axes(args[0])
    trace.units.fix(axes[args[1]], "summed over, or compared, as a whole")
    trace.set(out, axes)


@register(
    "aten::max_pool2d_with_indices", "aten::max_pool2d", "aten::avg_pool2d", "aten::_adaptive_avg_pool2d",
    "aten::adaptive_avg_pool2d", "aten::adaptive_max_pool2d", "aten::max_pool1d", "aten::avg_pool1d", "aten::adaptive_avg_pool1d",
    "aten::mkldnn_max_pool2d", "aten::max_pool3d_with_indices", "aten::avg_pool3d", "aten::_adaptive_avg_pool3d",
    "aten::upsample_nearest2d", "aten::upsample_bilinear2d", "aten::upsample_bicubic2d", "aten::upsample_nearest1d",
    "aten::_upsample_bicubic2d_aa", "aten::_upsample_bilinear2d_aa", "aten::upsample_linear1d", "aten::upsample_nearest3d",
    "aten::max_pool1d_with_indices", "aten::reflection_pad2d", "aten::replication_pad2d", "aten::grid_sampler_2d",
)  # fmt: skip
def pixels(trace: Trace, out: Any, args: list[Any]) -> None:
    """Axes behind the channels are mixed; batch and channels are passed on."""
    axes = trace.axes(args[0])
    for result in tree_leaves(out):
        if isinstance(result, Tensor):
            spatial = max(result.ndim - 2, 1)
            for axis in axes[-spatial:]:
                trace.units.fix(axis, "its places are mixed")
            trace.set(result, (*axes[:-spatial], *[None] * spatial))


@register("aten::constant_pad_nd", "aten::pad")
def pad(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """An axis that is padded must stay: the padding is written in the code."""
    axes = list(trace.axes(args[0]))
    for position, (before, after) in enumerate(zip(args[1][::2], args[1][1::2], strict=True)):
        if (before or after) and axes[-1 - position] is not None:
            trace.units.fix(axes[-1 - position], "padded with a fixed number of channels")
            filled = trace.units.new(out.shape[-1 - position])
            trace.units.fix(filled, "padded with a fixed number of channels")
            axes[-1 - position] = filled
    trace.set(out, axes)
