"""Rules of layers: convolutions, products, norms, embeddings, attention."""

from typing import Any

from torch import Tensor

from compress.pruning.rules.table import ALONG, FIXED_INPUT, first, register
from compress.pruning.trace import Trace


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
    trace.set(first(out), axes)


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
    trace.set(first(out), axes)


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
    trace.set(first(out), axes)


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
    trace.set(first(out), (None, heads, None, value[-1]))
