"""Which operators a runtime computes in integers: one table per runtime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from compress.quant.graph import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, aten

LINEAR = {aten.linear.default}
ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}
PRODUCTS = {aten.mul.Tensor, aten.mul_.Tensor}
CONCATENATIONS = {aten.cat.default}
AVERAGE_POOLS = {aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default, aten.mean.dim}
LOOK_UPS = {aten.sigmoid.default, aten.sigmoid_.default, aten.leaky_relu.default, aten.leaky_relu_.default}
EMBEDDINGS = {aten.embedding.default}
# A clip costs nothing behind an operator with a quantized output: the zero point clips as it does.
CLIPS = {
    aten.relu.default,
    aten.relu_.default,
    aten.relu6.default,
    aten.relu6_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.clamp.default,
    aten.clamp_.default,
}
ACTIVATIONS = {
    aten.elu.default,
    aten.gelu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.mish.default,
    aten.silu.default,
    aten.tanh.default,
}
SELDOM = {aten.celu.default, aten.prelu.default, aten.selu.default, aten.softplus.default}
NORMS = {
    aten.batch_norm.default,
    aten.group_norm.default,
    aten.instance_norm.default,
    aten.layer_norm.default,
    aten.rms_norm.default,
}
# Between pixels; the nearest pixel is a value that went in.
RESAMPLING = {aten.upsample_bilinear2d.vec, aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.vec}
WEIGHTED = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | LINEAR

# Under these keys a quantized graph keeps in its `meta` the name of what it was quantized for, and whether for AMX.
TARGET, AMX = "target", "amx"
# The activations that an operator reads; they are what has to be quantized for it.
Operands = Callable[[fx.Node], list[fx.Node]]


def _first(node: fx.Node) -> list[fx.Node]:
    return [arg for arg in node.args[:1] if isinstance(arg, fx.Node)]


def _both(node: fx.Node) -> list[fx.Node]:
    return [arg for arg in node.args[:2] if isinstance(arg, fx.Node)]


def _all_of_list(node: fx.Node) -> list[fx.Node]:
    return [arg for arg in node.args[0] if isinstance(arg, fx.Node)]  # type: ignore[union-attr]


@dataclass(frozen=True)
class Target:
    """A runtime.

    Attributes:
        name: as `compress bench --runtime` calls it; `title`: as a person does.
        operands: ATen operator with an integer kernel -> the activations it reads.
        absorbed: operators that the kernel in front applies before it gives out integers, where it alone is read by them.
        floats: operators without an integer kernel that a report names. Others, that nobody expects in integers, go unnamed.
    """

    name: str
    title: str
    operands: Mapping[Any, Operands]
    absorbed: frozenset[Any]
    floats: frozenset[Any]


def in_integer_form(node: fx.Node) -> bool:
    """Whether this use of an operator without weights is one that integer kernels are made for.

    Additions and products: of two tensors, since a number beside a tensor is folded elsewhere, and without `alpha`, which is
    exported as a product of its own. Averages: over windows, or over all pixels, which is exported as GlobalAveragePool.
    """
    if node.target in ADDITIONS | PRODUCTS:
        return len(node.args) == 2 and not node.kwargs and all(isinstance(arg, fx.Node) for arg in node.args)
    if node.target in AVERAGE_POOLS:
        return _pools(node)
    return True


def _pools(node: fx.Node) -> bool:
    value = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    if not isinstance(value, torch.Tensor) or value.ndim != 4:
        return False
    if node.target is aten.mean.dim:
        return sorted(int(dim) % 4 for dim in node.args[1]) == [2, 3]  # type: ignore[union-attr, arg-type]
    if node.target is aten.adaptive_avg_pool2d.default:
        return all(int(size) == 1 for size in node.args[1])  # type: ignore[union-attr, arg-type]
    return True


# ONNX Runtime 1.31: transposed convolution, GELU, hard-swish and a mean over channels have float kernels only. It has integer
# ones for the two products and the softmax of an attention, which are left out: the scores hold a mask of minus infinity,
# and the second product alone made a BERT of 6 layers at 128 tokens slower, 8.1 instead of 7.7 ms.
ORT_CPU = Target(
    "ort-cpu",
    "ONNX Runtime",
    {
        **dict.fromkeys(CONVOLUTIONS | LINEAR | AVERAGE_POOLS | LOOK_UPS, _first),
        **dict.fromkeys(ADDITIONS | PRODUCTS, _both),
        **dict.fromkeys(CONCATENATIONS, _all_of_list),
    },
    absorbed=frozenset(CLIPS),
    floats=frozenset(ACTIVATIONS | SELDOM | NORMS | AVERAGE_POOLS | RESAMPLING),
)

# OpenVINO 2026.4 computes an activation inside the convolution or linear layer in front, before it rounds. A quantizer between
# the two is in the way: EfficientNet-B0 at 224x224 takes 13.9 ms of processor time with the placement for ONNX Runtime, 10.0
# with this one and 11.4 in float (bfloat16 on that machine); with hard-swish for SiLU 8.7, 6.7 and 8.1. The products of an
# attention are slower in integers here, too: a BERT of 6 layers at 128 tokens 11.4 instead of 8.9 ms.
OPENVINO = Target(
    "openvino",
    "OpenVINO",
    {
        **dict.fromkeys(CONVOLUTIONS | LINEAR | AVERAGE_POOLS, _first),
        **dict.fromkeys(ADDITIONS | PRODUCTS, _both),
        **dict.fromkeys(CONCATENATIONS, _all_of_list),
    },
    absorbed=frozenset(CLIPS | ACTIVATIONS | LOOK_UPS),
    floats=frozenset(ACTIVATIONS | SELDOM | NORMS | RESAMPLING),
)

TARGETS = {target.name: target for target in (ORT_CPU, OPENVINO)}


def target_of(model: nn.Module) -> Target:
    """What a network was quantized for; ONNX Runtime for a network that was not."""
    return TARGETS[model.meta.get(TARGET, ORT_CPU.name) if isinstance(model, fx.GraphModule) else ORT_CPU.name]


def for_amx(model: nn.Module) -> bool:
    """Whether a network was quantized for the matrix unit of ONNX Runtime's processor, see `compress.onnx_rewrites.amx`."""
    return isinstance(model, fx.GraphModule) and bool(model.meta.get(AMX, False))
