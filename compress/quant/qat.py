"""Quantization-aware training: a network that trains with the rounding it will have, for any loop and optimizer.

>>> from compress.testing import tiny_model, tiny_task
>>> task = tiny_task()
>>> net = prepare(tiny_model(), task.example_inputs, calibration=task.calibration)
>>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
>>> for images, labels in task.train():
...     loss = torch.nn.functional.cross_entropy(net(images), labels)
...     optimizer.zero_grad()
...     loss.backward()
...     optimizer.step()
>>> quantized = finish(net)
>>> with torch.no_grad():
...     quantized(images).shape
torch.Size([16, 4])
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import UserError
from compress.outputs import batch_of_two
from compress.quant.fake_quantize import ActivationQuantizer, WeightQuantizer
from compress.quant.graph import attribute
from compress.quant.learned import LearnedQuantizer
from compress.quant.ptq import calibrate, check_weights, leave_room_for_biases
from compress.quant.ptq import prepare as prepare_graph
from compress.quant.scheme import Scheme
from compress.sparsity.masks import mark_sparse_, sparse_weights


def prepare(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    calibration: Callable[[], Iterable[tuple[Tensor, ...]]],
    scheme: Scheme | None = None,
    ranges: str = "mse",
    learn_scales: bool = True,
    dynamic_shapes: Any = None,
) -> fx.GraphModule:
    """A copy of `model` to be trained with the rounding of its integers, starting from calibrated ranges; `move_` it to a GPU.

    Batch norm is folded into the convolutions, and dropout is off, in training too: it is the network that will run. Other
    batch norms keep their statistics. Zeros of sparse layers are held by `compress.sparsity.masks.keep_zeros`.

    Args:
        example_inputs: one tensor per argument of the forward, batch first.
        calibration: gives batches of inputs anew on each call.
        scheme: bits, layers left in float, whether for processors with AMX; see `Scheme`.
        ranges: how the ranges to start from are chosen, see `compress.quant.ptq.calibrate`.
        learn_scales: whether the step sizes are trained with the weights; otherwise they stay.
        dynamic_shapes: as `torch.export.export` takes them; None leaves the batch free and fixes the other axes.

    Raises:
        UserError: the scheme's activations are not static, the forward cannot be captured, no layer can be quantized, a
            weight or the calibration data hold NaN or infinity, or there are no calibration data.
    """
    if scheme is not None and scheme.activations != "static":
        raise UserError(f"qat trains with static ranges of activations; the scheme's are {scheme.activations}")
    if dynamic_shapes is None:
        dynamic_shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in example_inputs)
        example_inputs = batch_of_two(example_inputs)
    model = copy.deepcopy(model)
    graph_module, placement = prepare_graph(model, example_inputs, scheme, dynamic_shapes=dynamic_shapes)
    if not placement.weights:
        raise UserError(f"no layer of {type(model).__name__} can be quantized")
    check_weights(graph_module, placement)
    if calibrate(graph_module, calibration, ranges) == 0:
        raise UserError("the calibration data are empty")
    return trainable_(graph_module, model, learn_scales=learn_scales)


def trainable_(graph_module: fx.GraphModule, model: nn.Module, *, learn_scales: bool = True) -> fx.GraphModule:
    """Let a calibrated graph train, in place, and give it back.

    Args:
        model: what the graph was captured from, whose sparse layers are marked in the graph, too.
    """
    for path in sparse_weights(model):
        mark_sparse_(graph_module.get_submodule(path.rpartition(".")[0]))
    for path, module in list(graph_module.named_modules()):
        if isinstance(module, ActivationQuantizer | WeightQuantizer):
            graph_module.set_submodule(path, LearnedQuantizer(module, learn=learn_scales))
    return graph_module


def move_(graph_module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """Move a captured graph to a device, in place, and give it back.

    `to` alone leaves behind the devices that stand in the graph, such as that of the positions which a forward counts out.
    """

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in graph_module.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), moved)
    graph_module.recompile()
    return graph_module.to(device)


def freeze_ranges_(graph_module: fx.GraphModule) -> None:
    """Train the scales no further, in place; the weights settle on grids that stand still."""
    for module in graph_module.modules():
        if isinstance(module, LearnedQuantizer):
            module.scale.requires_grad_(False)
            module.scale.grad = None


@torch.no_grad()
def finish(graph_module: fx.GraphModule) -> fx.GraphModule:
    """The trained network as an ordinary quantized graph in eval mode, changed in place: the same numbers, to be exported.

    Weights that training left outside of their codes are clipped to them. The graph computes what it computed in training,
    but for channels whose weights have become nearly nothing beside their bias: see `leave_room_for_biases`.
    """
    weights = [
        (node, path)
        for node in graph_module.graph.nodes
        if node.op == "call_module" and isinstance(graph_module.get_submodule(path := str(node.target)), LearnedQuantizer)
    ]
    for path, module in list(graph_module.named_modules()):
        if isinstance(module, LearnedQuantizer):
            graph_module.set_submodule(path, module.write_back_())
    leave_room_for_biases(graph_module)
    for node, path in weights:
        quantizer = graph_module.get_submodule(path)
        weight = attribute(graph_module, node.args[0])
        if isinstance(quantizer, WeightQuantizer) and weight is not None:
            largest = quantizer.largest_code * quantizer.scale
            largest = largest.view(-1, *[1] * (weight.ndim - 1)) if largest.ndim else largest
            weight.copy_(weight.clamp(-largest, largest))
    return graph_module.eval()
