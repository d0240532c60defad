"""What each operator makes of the axes of its inputs, exactly; see `trace`.

A rule takes `(trace, out, args)`: the operator's result, and its positional arguments with defaults filled in. It gives each
result its axes with `trace.set`, ties what must be cut together, and fixes what must stay. `register` adds a rule for an
operator of your own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from compress.pruning.trace import Trace
from compress.pruning.units import Axis

Rule = Callable[[Trace, Any, list[Any]], None]
RULES: dict[str, Rule] = {}

FIXED_INPUT = "reads the model's input, or values of a fixed number"
ALONG = "runs along values of a fixed number"


def register(*operators: str) -> Callable[[Rule], Rule]:
    """Decorator: the rule of these operators, named as in torch's registry, such as `aten::relu` or `mylib::scale`.

    For an operator that works on each value by itself, `register("mylib::scale")(pointwise)` is all there is to do.
    """

    def add(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return add


def apply_rule(trace: Trace, func: Any, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Apply the operator's rule; without one, fix all axes of its inputs."""
    name = func._schema.name
    rule = RULES.get(name.removesuffix("_") if name not in RULES else name)
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = pointwise
    if rule is None:
        trace.fix_all((args, kwargs), f"goes into {name.removeprefix('aten::')}, for which there is no rule")
        return
    try:
        rule(trace, out, _positional(func, args, kwargs))
    except Exception as error:  # shapes that a rule does not foresee must not stop all the others
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        trace.fix_all((args, kwargs), f"goes into {name.removeprefix('aten::')}, whose rule fails on it ({first})")


def _positional(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    schema = func._schema.arguments
    return [
        args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value if argument.has_default_value() else None)
        for i, argument in enumerate(schema)
    ]


# Every value by itself


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


# Layers


@register("aten::convolution", "aten::_convolution", "aten::mkldnn_convolution", "aten::convolution_overrideable")
def convolution(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Weight (out, in / groups, *kernel), transposed (in, out / groups, *kernel)."""
    x, weight, bias = args[:3]
    transposed, groups = (args[6], args[8]) if len(args) > 8 else (False, args[-1])
    units, x_axes, w_axes = trace.units, trace.axes(x), trace.axes(weight)
    for axis in x_axes[2:]:
        units.fix(axis, "its places are mixed by a convolution")
    inputs, outputs, channels = x_axes[1], w_axes[1 if transposed else 0], w_axes[0 if transposed else 1]
    trace.reads(weight, channels)
    for axis in w_axes[2:]:
        trace.reads(weight, axis)
        units.fix(axis, "the kernel of a convolution")
    if groups == 1:
        trace.contract(inputs, channels, FIXED_INPUT)
    elif transposed:
        outputs = units.new(out.shape[1])  # the weight's own axis is that of one group
        for axis in (inputs, *w_axes[:2], outputs):
            units.fix(axis, "a transposed convolution in groups")
    elif x.shape[1] == groups:  # depthwise: a channel goes with the outputs that read it
        if inputs is None or outputs is None:
            units.fix(inputs, ALONG)
            units.fix(outputs, FIXED_INPUT)
        else:
            units.tie(outputs.reshape(groups, -1), inputs[:, None])
    elif inputs is None or channels is None or outputs is None:
        for axis in (inputs, channels, outputs):
            units.fix(axis, "a convolution in groups of fixed width")
    else:  # the same places in every group, so that the groups stay of one width
        units.tie(inputs.reshape(groups, -1), channels)
        rows = outputs.reshape(groups, -1)
        units.tie(rows, rows[0])
    if bias is not None:
        trace.same((outputs, trace.axes(bias)[0]), ALONG)
    trace.set(out, (x_axes[0], outputs, *[None] * (out.ndim - 2)))


def product(trace: Trace, out: Tensor, x: Tensor, y: Tensor, batch: int = 0) -> None:
    """x (*batch, rows, inner) times y (*batch, inner, columns)."""
    a, b = trace.axes(x), trace.axes(y)
    if trace.is_weight(x) or trace.is_weight(y):
        trace.reads(x, a[-1])
        trace.reads(y, b[-2])
        trace.makes(x, a[-2])
        trace.makes(y, b[-1])
        trace.contract(a[-1], b[-2], FIXED_INPUT)
    else:
        # In attention the sum over a head's width is divided by the root of that width, which would change.
        for axis in (a[-1], b[-2]):
            trace.units.fix(axis, "two activations are multiplied and summed over it")
    shared = [trace.same((a[i], b[i]), ALONG) for i in range(batch)]
    trace.set(out, (*shared, a[-2], b[-1]))


@register("aten::mm", "aten::bmm")
def matrix_product(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Without and with a batch axis."""
    product(trace, out, args[0], args[1], out.ndim - 2)


@register("aten::addmm", "aten::baddbmm", "aten::addbmm", "aten::_addmm_activation")
def biased_product(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """bias + x @ y."""
    bias, x, y = args[:3]
    product(trace, out, x, y, out.ndim - 2)
    axes = trace.axes(out)
    if bias.ndim:
        trace.same((axes[-1], trace.axes(bias)[-1]), ALONG) if bias.shape[-1] > 1 else None
        for axis in trace.axes(bias)[:-1]:
            trace.units.fix(axis, "added along another axis")


@register("aten::linear", "aten::_linear", "aten::mkldnn_linear", "mkldnn::_linear_pointwise")
def linear(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Weight (out, in)."""
    x, weight, bias = args[:3]
    a, w = trace.axes(x), trace.axes(weight)
    trace.reads(weight, w[1])
    trace.makes(weight, w[0])
    trace.contract(a[-1], w[1], FIXED_INPUT)
    if bias is not None:
        trace.same((w[0], trace.axes(bias)[0]), ALONG)
    trace.set(out, (*a[:-1], w[0]))


@register("aten::embedding")
def embedding(trace: Trace, out: Tensor, args: list[Any]) -> None:
    """Rows of a table."""
    table, numbers = args[:2]
    trace.units.fix(trace.axes(table)[0], "looked up by number")
    trace.reads(table, trace.axes(table)[0])  # words are no channels
    trace.set(out, (*[None] * numbers.ndim, trace.axes(table)[1]))


@register(
    "aten::native_batch_norm", "aten::_native_batch_norm_legit", "aten::_native_batch_norm_legit_no_training",
    "aten::cudnn_batch_norm", "aten::batch_norm", "aten::_batch_norm_no_update",
)  # fmt: skip
def batch_norm(trace: Trace, out: Any, args: list[Any]) -> None:
    """Scale, bias, mean and variance per channel."""
    x = args[0]
    axes = trace.axes(x)
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor):
            trace.same((axes[1], trace.axes(tensor)[0]), ALONG)
    trace.set(_first(out), axes)


@register("aten::native_layer_norm", "aten::layer_norm", "aten::_fused_rms_norm", "aten::rms_norm")
def layer_norm(trace: Trace, out: Any, args: list[Any]) -> None:
    """Statistics over the last axes: those of a cut network are over the channels that it kept."""
    x, shape, *parameters = args
    axes, count = trace.axes(x), len(shape)
    weights = [p for p in parameters if isinstance(p, Tensor)]
    for position in range(-count, 0):
        if count > 1:
            trace.units.fix(axes[position], "a layer norm over several axes")
        if not weights:
            trace.units.fix(axes[position], "a layer norm without weights, whose width is written in the code")
        for weight in weights:
            trace.same((axes[position], trace.axes(weight)[position]), ALONG)
    trace.set(_first(out), axes)


@register("aten::native_group_norm", "aten::group_norm")
def group_norm(trace: Trace, out: Any, args: list[Any]) -> None:
    """The same places in every group, so that the groups stay of one width."""
    x, weights = args[0], [p for p in args[1:5] if isinstance(p, Tensor)]
    groups = args[6] if len(args) > 6 else args[1]
    axes = trace.axes(x)
    if not weights:
        trace.units.fix(axes[1], "a group norm without weights")
    for weight in weights:
        trace.same((axes[1], trace.axes(weight)[0]), ALONG)
    if axes[1] is not None and groups > 1:
        if groups == x.shape[1]:
            trace.units.fix(axes[1], "an instance norm whose number of groups is written in the code")
        rows = axes[1].reshape(groups, -1)
        trace.units.tie(rows, rows[0])
    trace.set(_first(out), axes)


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple | list) else out


@register(
    "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention", "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_attention_math", "aten::_scaled_dot_product_attention_math_for_mps",
)  # fmt: skip
def attention(trace: Trace, out: Any, args: list[Any]) -> None:
    """query, key, value (batch, heads, tokens, width of a head)."""
    query, key, value = (trace.axes(x) for x in args[:3])
    for axis in (query[-1], key[-1], query[-2], key[-2], value[-2]):
        trace.units.fix(axis, "two activations are multiplied and summed over it")
    heads = trace.same((key[1], value[1]), ALONG)
    shared = args[0].shape[1] // args[1].shape[1]
    if shared == 1:
        heads = trace.same((query[1], heads), ALONG)
    elif query[1] is None or heads is None:
        trace.fix_all(args[:3], ALONG)
        heads = None
    else:  # grouped queries: a head of keys goes with the query heads that look at it, which are a part of the output
        trace.units.tie(query[1].reshape(-1, shared), heads[:, None])
        heads = query[1]
    for mask in args[3:]:
        if isinstance(mask, Tensor) and mask.ndim == 4:  # a bias that is learned for each head
            above = trace.axes(mask)
            if mask.shape[1] > 1:
                trace.same((heads, above[1]), ALONG)
            for axis in (above[0], *above[2:]):
                trace.units.fix(axis, ALONG)
    trace.set(_first(out), (None, heads, None, value[-1]))


# Shapes


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


# Axes that are summed, pooled, padded


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
