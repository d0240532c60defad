"""Where a quantized network loses its accuracy: the error of every layer, by itself and with all that came before it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.outputs import in_batches
from compress.quant.blocks import BlockQuantizer
from compress.quant.dynamic import DynamicQuantizer
from compress.quant.fake_quantize import ActivationQuantizer, WeightQuantizer
from compress.quant.graph import CONVOLUTIONS, attribute, layer_of
from compress.quant.placement import addition_name
from compress.quant.targets import ADDITIONS, LINEAR, WEIGHTED, target_of

Quantizer = ActivationQuantizer | DynamicQuantizer | WeightQuantizer | BlockQuantizer


@dataclass(frozen=True)
class LayerError:
    """What integers do to one layer. Signal-to-noise ratios are in dB, 20 for a tenth of error; None where there is no error.

    Attributes:
        name: of the layer; `layer#2` is its second call.
        kind: `input`, `conv`, `linear`, `add`, or the operator's name.
        bits: of the weight's codes; None where the layer has no weight, or keeps it in float.
        weight_db: of the weight as it is stored in integers.
        low, high: the range that the layer's output is clipped to; None where the output stays in float.
        clipped: share, in [0, 1], of the output's values in float that lie outside that range, by more than rounding.
        own_db: of the output where this layer alone is in integers, and its inputs are exact.
        channel_db: the same for single channels, of which half are worse. Far below `own_db` where a few channels are so
            large that their range leaves the others hardly a code.
        accumulated_db: of the output where the whole network is in integers.
    """

    name: str
    kind: str
    bits: int | None
    weight_db: float | None
    low: float | None
    high: float | None
    clipped: float | None
    own_db: float | None
    channel_db: float | None
    accumulated_db: float | None


@torch.no_grad()
def layer_errors(graph_module: fx.GraphModule, batches: Iterable[tuple[Tensor, ...]]) -> tuple[tuple[LayerError, ...], int]:
    """The error of each layer of a quantized graph, in the order of the network, and the number of samples it was measured on.

    What is exact is the same graph with every quantizer passing its input through. A layer reads quantized inputs and a
    quantized weight and gives a quantized output, as its integer kernel does; the output is looked at behind the ReLU that
    the kernel absorbs. Each sample takes about three forward passes; memory does not grow with their number.

    Args:
        batches: of inputs.
    """
    layers = _layers(graph_module)
    comparison = _Comparison(graph_module, layers)
    samples = 0
    for batch in batches:
        for part in in_batches(graph_module, batch):
            comparison.run(*part)
        samples += len(batch[0])
    return tuple(layer.result() for layer in layers), samples


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise) of two energies; None without noise."""
    return None if noise == 0 else 10 * math.log10(max(signal, 1e-30) / noise)


class _Energy:
    """Sums over batches, for each channel: the energy of a tensor, and that of what is wrong with it."""

    def __init__(self) -> None:
        self.signal = self.noise = torch.zeros((), dtype=torch.float64)

    def add(self, exact: Tensor, found: Tensor, axis: int) -> None:
        right, wrong = (x.double().movedim(axis, 0).reshape(x.shape[axis], -1) for x in (exact, found - exact))
        self.signal = self.signal + right.square().sum(1)
        self.noise = self.noise + wrong.square().sum(1)

    def whole(self) -> float | None:
        return decibels(float(self.signal.sum()), float(self.noise.sum()))

    def median_channel(self) -> float | None:
        alive = self.signal > 0
        if not alive.any():
            return None
        ratio = float((self.signal[alive] / self.noise[alive]).median())  # no noise is infinity, and sorts as it should
        return decibels(ratio, 1.0) if math.isfinite(ratio) else None


class _Layer:
    """One layer of the graph, up to the quantizer of its output, and what was summed up about it.

    Attributes:
        path: the nodes behind the operator that belong to it: the clips that its kernel absorbs and the quantizer of its
            output; empty where the output stays in float.
    """

    def __init__(self, graph_module: fx.GraphModule, node: fx.Node, name: str, path: list[fx.Node]) -> None:
        self.node, self.name, self.path = node, name, path
        output = _quantizer(graph_module, path[-1]) if path else None
        self.output = output if isinstance(output, ActivationQuantizer) else None
        self.own, self.accumulated, self.stored = _Energy(), _Energy(), _Energy()
        self.values = self.outside = 0
        self.bits: int | None = None
        for read in node.all_input_nodes:
            quantizer = _quantizer(graph_module, read)
            if not isinstance(quantizer, WeightQuantizer | BlockQuantizer):
                continue
            weight = attribute(graph_module, read.all_input_nodes[0])
            if weight is not None:
                self.bits = quantizer.bits
                self.stored.add(weight, quantizer(weight), 0)

    def add(self, exact: Tensor, alone: Tensor, together: Tensor) -> None:
        # Channels stand where images have them, except behind a linear layer.
        axis = 1 if self.node.target in CONVOLUTIONS or (exact.ndim == 4 and self.node.target not in LINEAR) else -1
        self.own.add(exact, alone, axis)
        self.accumulated.add(exact, together, axis)
        if self.output is not None:
            low, high = edges(self.output)
            half = float(self.output.scale) / 2
            self.values += exact.numel()
            self.outside += int(((exact < low - half) | (exact > high + half)).sum())

    def result(self) -> LayerError:
        low, high = edges(self.output) if self.output is not None else (None, None)
        return LayerError(
            name=self.name,
            kind=_kind(self.node),
            bits=self.bits,
            weight_db=self.stored.whole(),
            low=low,
            high=high,
            clipped=self.outside / max(self.values, 1) if self.output is not None else None,
            own_db=self.own.whole(),
            channel_db=self.own.median_channel(),
            accumulated_db=self.accumulated.whole(),
        )


def edges(quantizer: ActivationQuantizer) -> tuple[float, float]:
    """The smallest and the largest number that a quantizer can give."""
    codes, scale, zero = torch.iinfo(quantizer.zero_point.dtype), float(quantizer.scale), int(quantizer.zero_point)
    return (codes.min - zero) * scale, (codes.max - zero) * scale


def _layers(graph_module: fx.GraphModule) -> list[_Layer]:
    """All convolutions and linear layers, and whatever else makes a tensor that is quantized, in the order of the network."""
    found: list[_Layer] = []
    taken: set[object] = set()  # clips that belong to a layer, and quantizers that what only moves values shares
    calls: dict[str, int] = {}
    for node in graph_module.graph.nodes:
        if node.op in ("call_module", "output") or node in taken:
            continue
        path = _path(graph_module, node)
        kinds = WeightQuantizer | BlockQuantizer
        reads_weight = any(isinstance(_quantizer(graph_module, read), kinds) for read in node.all_input_nodes)
        if node.target in WEIGHTED or reads_weight or (path and path[-1].target not in taken):
            taken.update([*path, path[-1].target] if path else [])
            name = addition_name(node) if node.target in ADDITIONS else layer_of(node)
            calls[name] = calls.get(name, 0) + 1
            found.append(_Layer(graph_module, node, name if calls[name] == 1 else f"{name}#{calls[name]}", path))
    return found


def _path(graph_module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    path: list[fx.Node] = []
    absorbed = target_of(graph_module).absorbed
    while len(node.users) == 1 and next(iter(node.users)).target in absorbed:
        node = next(iter(node.users))
        path.append(node)
    quantizers = [user for user in node.users if isinstance(_quantizer(graph_module, user), ActivationQuantizer)]
    return [*path, quantizers[0]] if quantizers else []


def _kind(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    for kind, targets in (("linear", LINEAR), ("conv", WEIGHTED), ("add", ADDITIONS)):
        if node.target in targets:
            return kind
    return str(getattr(node.target, "__name__", node.name)).partition(".")[0].removesuffix("_")


def _quantizer(graph_module: nn.Module, node: fx.Node) -> Quantizer | None:
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, Quantizer) else None


class _Comparison(fx.Interpreter):
    """Runs a quantized graph twice at once: every value is a pair, in float and in integers."""

    def __init__(self, graph_module: fx.GraphModule, layers: list[_Layer]) -> None:
        super().__init__(graph_module)
        self._at = {layer.node: layer for layer in layers}
        self._until = {layer.path[-1] if layer.path else layer.node: layer for layer in layers}
        self._alone: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        quantizer = _quantizer(self.module, n)
        if n.op == "placeholder":
            x = super().run_node(n)
            pair = (x, x.clone())  # an operator may write into its input
        elif n.op == "get_attr":
            pair = (super().run_node(n),) * 2
        elif n.op == "output":
            return self._call(n, self._read(n, 0))
        elif quantizer is not None:
            exact, together = self.env[n.args[0]]  # type: ignore[index]
            pair = (exact, quantizer(together))
        else:
            if n in self._at:  # before the others, since an operator may write into its input
                self._run_alone(n)
            pair = (self._call(n, self._read(n, 0)), self._call(n, self._read(n, 1)))
        if n in self._until:
            self._compare(self._until[n], *pair)
        return pair

    def _read(self, node: fx.Node, side: int) -> dict[fx.Node, Any]:
        return {read: self.env[read][side] for read in node.all_input_nodes}

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        return getattr(self, node.op)(node.target, args, kwargs)

    def _run_alone(self, node: fx.Node) -> None:
        """The operator on exact inputs that went through the quantizers it reads; nothing where it reads none."""
        values = self._read(node, 0)
        quantizers = {read: quantizer for read in values if (quantizer := _quantizer(self.module, read)) is not None}
        if quantizers:
            self._alone[node] = self._call(node, values | {read: q(values[read]) for read, q in quantizers.items()})

    def _compare(self, layer: _Layer, exact: Tensor, together: Tensor) -> None:
        if layer.node in self._alone:
            alone = self._alone.pop(layer.node)
            for node in layer.path:
                alone = self._call(node, {node.all_input_nodes[0]: alone})
        else:
            alone = layer.output(exact) if layer.output is not None else exact
        layer.add(exact, alone, together)
