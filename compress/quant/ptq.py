"""Static post-training quantization of a captured graph: observe, choose ranges, replace observers by quantizers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import UserError
from compress.outputs import small_parts
from compress.quant.blocks import BlockQuantizer
from compress.quant.dynamic import DynamicQuantizer
from compress.quant.fake_quantize import ActivationQuantizer, WeightQuantizer
from compress.quant.graph import add_bias, aten, attribute, capture, fold_batch_norm, layer_of, split_silu, without_writes
from compress.quant.linear_layers import place_linear, products_as_linear
from compress.quant.local_error import choose
from compress.quant.observers import HistogramObserver
from compress.quant.placement import Placement, place, weight_of
from compress.quant.ranges import METHODS, candidates
from compress.quant.samples import without_nan
from compress.quant.scheme import Scheme
from compress.quant.targets import AMX, EMBEDDINGS, ORT_CPU, TARGET, WEIGHTED, target_of

QUANTIZERS = "quantizers"
AUTO = "auto"
# They fail, or give something else, where their input lies in memory otherwise than when they were captured.
ON_LAYOUT = {aten.view.default, aten.as_strided.default}
# Half of what `onnx_rewrites` accepts, which keeps the int32 sums of an integer layer from overflowing.
LARGEST_BIAS_CODE = 2**29


def prepare(
    model: nn.Module, example_inputs: tuple[Tensor, ...], scheme: Scheme | None = None, *, dynamic_shapes: Any = None
) -> tuple[fx.GraphModule, Placement]:
    """`model` as a graph with batch norm folded and quantizers placed; the ranges of activations are not set yet.

    The same model and scheme always give the same module names, so that a saved state fits. `model` is not changed.
    """
    scheme = scheme or Scheme()
    graph_module = folded(model, example_inputs, dynamic_shapes, scheme.target)
    return graph_module, insert_quantizers(graph_module, scheme)


def folded(
    model: nn.Module, example_inputs: tuple[Tensor, ...], dynamic_shapes: Any = None, target: str = ORT_CPU.name
) -> fx.GraphModule:
    """A copy of `model` as a graph with batch norm folded, still in float, in the form that `target` computes in integers."""
    graph_module = capture(model, example_inputs, dynamic_shapes)
    without_writes(graph_module)
    fold_batch_norm(graph_module)
    products_as_linear(graph_module)
    if target == ORT_CPU.name:
        split_silu(graph_module)
    graph_module.meta[TARGET] = target
    return graph_module


def insert_quantizers(graph_module: fx.GraphModule, scheme: Scheme) -> Placement:
    """Put quantizers into a folded graph, in place; those of weights cover the weights as they are now."""
    static = scheme.activations == "static"
    placement = place(graph_module, scheme.excludes, target_of(graph_module)) if static else place_linear(graph_module, scheme)
    graph_module.meta[AMX] = scheme.amx
    graph_module.add_submodule(QUANTIZERS, nn.Module())
    if scheme.biases:
        for node in placement.weights:
            add_bias(graph_module, node)
    names: dict[fx.Node, str] = {}
    for node, source in placement.source.items():
        if source not in names:
            activations = ActivationQuantizer(symmetric=scheme.symmetric) if static else DynamicQuantizer()
            names[source] = _add(graph_module, source.name, activations)
        _insert(graph_module, node, names[source], placement.readers[node])
    # Collected first: inserting a quantizer changes the arguments of all layers that share a weight.
    holders: dict[fx.Node, list[fx.Node]] = {}
    for node in [*placement.weights, *placement.tables]:
        holders.setdefault(weight_of(node), []).append(node)
    for weight_node, layers in holders.items():
        weight = attribute(graph_module, weight_node)
        assert weight is not None
        is_table = any(layer.target in EMBEDDINGS for layer in layers)
        bits = scheme.bits_of(layer_of(layers[0]), is_table=is_table)
        quantizer = _weight_quantizer(weight, scheme, bits, is_table=is_table)
        quantizer.set_from(weight)
        # A layer that is tied to it may be left in float.
        readers = [user for user in weight_node.users if user in layers or user.target not in WEIGHTED | EMBEDDINGS]
        _insert(graph_module, weight_node, _add(graph_module, weight_node.name, quantizer), readers)
    graph_module.graph.lint()
    graph_module.recompile()
    return placement


def check_weights(graph_module: fx.GraphModule, placement: Placement) -> None:
    """Refuse weights that no code stands for.

    Raises:
        UserError: a weight or bias of a layer in integers holds NaN or infinity; names it.
    """
    for layer in [*placement.weights, *placement.tables]:
        for what, node in zip(("weight", "bias"), (weight_of(layer), *layer.args[2:3]), strict=False):
            stored = node.args[0] if isinstance(node, fx.Node) and node.op == "call_module" else node
            values = attribute(graph_module, stored) if isinstance(stored, fx.Node) else None
            if values is not None and not torch.isfinite(values).all():
                why = "check the model, and the statistics of a batch norm behind the layer"
                raise UserError(f"the {what} of '{layer_of(layer)}' holds NaN or infinity; {why}")


def _weight_quantizer(weight: Tensor, scheme: Scheme, bits: int, *, is_table: bool) -> WeightQuantizer | BlockQuantizer:
    if scheme.activations == "float":
        rows, inputs = weight.shape
        return BlockQuantizer(rows, inputs, bits, scheme.block_size, symmetric=scheme.symmetric_weights)
    return WeightQuantizer(len(weight) if scheme.per_channel or is_table else None, bits)


def _add(graph_module: fx.GraphModule, name: str, quantizer: nn.Module) -> str:
    path = f"{QUANTIZERS}.{name}"
    assert graph_module.add_submodule(path, quantizer)
    return path


def _insert(graph_module: fx.GraphModule, node: fx.Node, quantizer: str, readers: list[fx.Node]) -> None:
    """Put a quantizer between a node and these readers."""
    with graph_module.graph.inserting_after(node):
        inserted = graph_module.graph.call_module(quantizer, (node,))
    inserted.meta = {key: value for key, value in node.meta.items() if key in ("val", "nn_module_stack")}
    for reader in readers:
        reader.replace_input_with(node, inserted)


@torch.no_grad()
def calibrate(graph_module: fx.GraphModule, batches: Callable[[], Iterable[tuple[Tensor, ...]]], ranges: str) -> int:
    """Set the range of every activation quantizer, in place, from the values that `batches()` of inputs cause.

    Args:
        batches: gives the inputs anew on each call; `auto` goes over the first of them twice.
        ranges: a name in `compress.quant.ranges.METHODS`; or `auto`, which takes for each tensor the one of their ranges
            that changes the outputs of its readers least.

    Gives the number of samples seen.

    Raises:
        UserError: a batch is not what the network takes; NaN in the inputs; NaN or infinity in a tensor that is to be rounded,
            which is named.
    """
    quantizers: dict[str, ActivationQuantizer] = {}
    observers: dict[str, HistogramObserver] = {}
    rounded: dict[str, WeightQuantizer] = {}
    # Convolutions hand the layout of their weights on, and channels last are quicker: a ResNet-18 at 224x224 takes 4.3 instead of
    # 6.3 s for 300 images.
    insists = any(node.target in ON_LAYOUT for node in graph_module.graph.nodes)
    layout = torch.contiguous_format if insists else torch.channels_last
    names = {str(node.target): _name_of(node.args[0]) for node in graph_module.graph.nodes if node.op == "call_module"}
    for path, module in list(graph_module.named_modules()):
        if isinstance(module, ActivationQuantizer):
            quantizers[path] = module
            observers[path] = HistogramObserver(names[path])
            graph_module.set_submodule(path, observers[path])
        elif isinstance(module, WeightQuantizer):
            rounded[path] = module
            graph_module.set_submodule(path, _Once(module, layout))
    samples = 0
    try:
        for batch in without_nan(graph_module, batches()):
            for part in small_parts(graph_module, batch):
                _observe(graph_module, part)
            samples += len(batch[0])
        if ranges == AUTO:
            proposed = {path: candidates(seen) for path, seen in observers.items()}
            for seen in observers.values():
                seen.counting = False
            chosen = choose(graph_module, batches(), proposed, quantizers)
        else:
            chosen = {path: METHODS[ranges](seen) for path, seen in observers.items()}
    finally:
        for path, module in (quantizers | rounded).items():
            graph_module.set_submodule(path, module)
    for path, quantizer in quantizers.items():
        quantizer.set_range(*chosen[path])
    leave_room_for_biases(graph_module)
    return samples


def _observe(graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
    try:
        graph_module(*inputs)
    except UserError:
        raise
    except Exception as error:  # data that are not like the example can make any operator fail
        given = " and ".join(f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}" for x in inputs)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the network does not take the calibration data, {given}: {first}") from error


class _Once(nn.Module):
    """Stands for the quantizer of a weight that does not change: what it gives the first time, that of images in this layout."""

    def __init__(self, quantizer: nn.Module, layout: torch.memory_format) -> None:
        super().__init__()
        self._quantizer = [quantizer]  # in a list, so that it is no submodule
        self._layout = layout
        self._given: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if self._given is None:
            rounded = self._quantizer[0](weight)
            self._given = rounded.contiguous(memory_format=self._layout) if rounded.ndim == 4 else rounded
        return self._given


def _name_of(node: fx.Node) -> str:
    return f"the input '{node.target}'" if node.op == "placeholder" else f"the output of '{layer_of(node)}'"


def leave_room_for_biases(graph_module: fx.GraphModule) -> None:
    """Widen, in place, the weight scale of channels that are nearly zero beside their bias.

    A bias is stored as int32 in steps of input scale * weight scale. Of a dead channel (its batch norm's scale went to
    zero) that step is so small that the bias would overflow, and the runtime would clip it without a word.
    """
    for node in graph_module.graph.nodes:
        if node.target not in WEIGHTED or len(node.args) < 3 or node.args[2] is None:
            continue
        activations, weights = (_quantizer_of(graph_module, arg) for arg in node.args[:2])
        bias = attribute(graph_module, node.args[2])
        if isinstance(activations, ActivationQuantizer) and isinstance(weights, WeightQuantizer) and bias is not None:
            needed = bias.abs() / (activations.scale * LARGEST_BIAS_CODE)
            weights.scale.copy_(torch.maximum(weights.scale, needed if weights.scale.ndim else needed.max()))


def _quantizer_of(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def quantizers_in(model: nn.Module) -> list[str]:
    """Paths of the quantizers of a model; empty for a float model."""
    kinds = ActivationQuantizer | DynamicQuantizer | WeightQuantizer | BlockQuantizer
    return [path for path, module in model.named_modules() if isinstance(module, kinds)]


def rounds_activations(model: nn.Module) -> bool:
    """Whether a model computes with rounded activations, which a rounding apart turn out a whole step apart."""
    return any(isinstance(module, ActivationQuantizer | DynamicQuantizer) for module in model.modules())
