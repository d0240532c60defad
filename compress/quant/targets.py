"""Which operators a runtime computes in integers: one table per runtime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from compress.quant.graph import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, aten

LINEAR = {aten.linear.default}
ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}
PRODUCTS = {aten.mul.Tensor, aten.mul_.Tensor}
CONCATENATIONS = {aten.cat.default}
AVERAGE_POOLS = {aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default, aten.mean.dim}
LOOK_UPS = {aten.sigmoid.default, aten.sigmoid_.default, aten.leaky_relu.default, aten.leaky_relu_.default}
EMBEDDINGS = {aten.embedding.default}
WEIGHTED = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | LINEAR

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
    """

    name: str
    title: str
    operands: Mapping[Any, Operands]


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
)
