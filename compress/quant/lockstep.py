"""A quantized graph and the float network it stands for, run side by side over the same samples, layer by layer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from compress.quant.graph import attribute
from compress.quant.parameters import weight_quantizer
from compress.quant.samples import first_samples

Batches = Iterable[tuple[Tensor, ...]]
# For the values of both networks that are still to be read; the inputs are held beside them.
BYTES = 2**30


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer whose weight is quantized.

    Attributes:
        node: its node in the quantized graph.
        inputs: what it reads there, with all that was changed before it; one tensor per batch.
        expected: what it gives in the float network, one tensor per batch.
        run: computes its outputs, a batch at a time, in the quantized graph, with the parameters as they are now.
    """

    node: fx.Node
    inputs: list[Tensor]
    expected: list[Tensor]
    run: Callable[[], Iterator[Tensor]]


def float_parameters(graph_module: fx.GraphModule) -> dict[str, Tensor]:
    """Copies of all tensors that the graph reads from its module, by path: with them it is the float network."""
    found = {str(node.target): attribute(graph_module, node) for node in graph_module.graph.nodes if node.op == "get_attr"}
    return {path: value.detach().clone() for path, value in found.items() if value is not None}


@torch.no_grad()
def lockstep(
    graph_module: fx.GraphModule, originals: Mapping[str, Tensor], batches: Callable[[], Batches], samples: int
) -> Iterator[Layer]:
    """Each quantized layer in topological order, to be changed before the next one is asked for.

    The float network is the same graph with `originals` in place of its parameters and every quantizer passing its input
    through. Every operator runs once for each network and batch: two forward passes in all, whatever the depth.

    Args:
        originals: from `float_parameters`, before anything was rounded.
        batches: gives the inputs anew on each call.
        samples: at most so many are used, and no more than `BYTES` has room for.
    """
    room = _samples_with_room(graph_module, batches())
    inputs = list(first_samples(graph_module, batches(), min(samples, room)))
    floats: list[_Steps] = [_Float(graph_module, originals, batch) for batch in inputs]
    rounded = [_Steps(graph_module, batch) for batch in inputs]
    for node in graph_module.graph.nodes:
        if node.op == "output":
            return
        for run in floats:
            run.step(node)
        if weight_quantizer(graph_module, node) is not None:
            yield Layer(
                node,
                [run.env[node.args[0]] for run in rounded],
                [run.env[node] for run in floats],
                lambda node=node: (run.value(node) for run in rounded),  # type: ignore[misc]
            )
        for run in rounded:
            run.step(node)
        for run in (*floats, *rounded):
            run.forget(node)


class _Steps(fx.Interpreter):
    """A graph on one batch, a node at a time.

    Parameters, and what their quantizers make of them, are computed when an operator asks: until then they may be changed,
    and a copy of every weight for every batch would fill the memory.
    """

    def __init__(self, graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
        super().__init__(graph_module)
        self.args_iter = iter(inputs)

    def step(self, node: fx.Node) -> None:
        if not _of_parameters(node):
            self.env[node] = self.value(node)

    def value(self, node: fx.Node) -> Any:
        """What a node gives for the parameters as they are now."""
        parameters = [read for read in node.all_input_nodes if _of_parameters(read)]
        self.env.update({read: self.value(read) for read in parameters})
        result = self.run_node(node)
        for read in parameters:
            del self.env[read]
        return result

    def forget(self, node: fx.Node) -> None:
        """Let go of what no later node reads."""
        for read in self.user_to_last_uses.get(node, []):
            self.env.pop(read, None)


def _of_parameters(node: fx.Node) -> bool:
    return node.op == "get_attr" or (node.op == "call_module" and all(_of_parameters(read) for read in node.all_input_nodes))


class _Float(_Steps):
    """The same in float."""

    def __init__(self, graph_module: fx.GraphModule, originals: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> None:
        super().__init__(graph_module, inputs)
        self.originals = originals

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.originals[target] if target in self.originals else super().get_attr(target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return args[0]


def _samples_with_room(graph_module: fx.GraphModule, batches: Batches) -> int:
    """How many samples fit into `BYTES`, at least one: tried with the first."""
    inputs = next(first_samples(graph_module, batches, 1), None)
    if inputs is None:
        return 1
    watched = _Watched(graph_module, inputs)
    for node in graph_module.graph.nodes:
        if node.op != "output":
            watched.step(node)
            watched.forget(node)
    return max(1, int(BYTES / (2 * max(watched.most, 1) / len(inputs[0]))))


class _Watched(_Steps):
    """Notes the most bytes of activations that were held at once."""

    most = 0

    def forget(self, node: fx.Node) -> None:
        held = [value.untyped_storage() for value in self.env.values() if isinstance(value, Tensor)]
        storages = {storage.data_ptr(): storage.nbytes() for storage in held}
        self.most = max(self.most, sum(storages.values()))
        super().forget(node)
