"""Ranges chosen by what they do to the layers that read the tensor, not by what they do to the tensor."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from compress.outputs import small_parts
from compress.quant.fake_quantize import ActivationQuantizer
from compress.quant.placement import keeps_values
from compress.quant.ranges import Range
from compress.quant.samples import first_samples

# Errors of layers settle quickly, and each sample costs a pass over the network for each candidate.
SAMPLES = 32
# After each part of them, only candidates go on whose error is at most so many times the smallest.
PROMISING = 1.1


@torch.no_grad()
def choose(
    graph_module: fx.GraphModule,
    batches: Iterable[tuple[Tensor, ...]],
    proposed: Mapping[str, Sequence[Range]],
    quantizers: Mapping[str, ActivationQuantizer],
) -> dict[str, Range]:
    """For each tensor the range, of those proposed, that changes the outputs of its readers least.

    The error is the squared difference of a reader's output from the one it gives for the tensor as it is, over the squared
    output, summed over the readers; everything else stays as it is in the graph. Operators that only move values are not
    asked: their output has candidates of its own. Candidates far behind are given up early.

    Args:
        graph_module: with a module that passes its input through where each quantizer will be.
        batches: of inputs; about the first `SAMPLES` samples are used.
        proposed: path of the module -> ranges.
        quantizers: path of the module -> what will take its place; left with the last range that was tried.
    """
    trial = _Trial(graph_module, proposed, quantizers)
    for inputs in first_samples(graph_module, batches, SAMPLES):
        for part in small_parts(graph_module, inputs):
            trial.run(*part)
            trial.drop_hopeless()
    return {path: ranges[int(trial.errors[path].argmin())] for path, ranges in proposed.items()}


class _Trial(fx.Interpreter):
    """Runs the graph, and each reader of a tensor again for each candidate."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        proposed: Mapping[str, Sequence[Range]],
        quantizers: Mapping[str, ActivationQuantizer],
    ) -> None:
        super().__init__(graph_module)
        self._proposed, self._quantizers = proposed, quantizers
        self.errors = {path: torch.zeros(len(ranges), dtype=torch.float64) for path, ranges in proposed.items()}
        self.tried = {path: list(range(len(ranges))) for path, ranges in proposed.items()}

    def drop_hopeless(self) -> None:
        """Try no more what is far behind the best: its error becomes infinite."""
        for path, errors in self.errors.items():
            errors[errors > PROMISING * errors.min()] = float("inf")
            self.tried[path] = errors.isfinite().nonzero().flatten().tolist()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, Tensor) and result.is_floating_point() and not keeps_values(n):
            for read in dict.fromkeys(n.all_input_nodes):
                path = str(read.target)
                if read.op == "call_module" and len(self.tried.get(path, ())) > 1:
                    self._compare(n, read, path, result)
        return result

    def _compare(self, reader: fx.Node, read: fx.Node, path: str, result: Tensor) -> None:
        energy = max(_energy(result), 1e-30)
        quantizer = self._quantizers[path]
        for number in self.tried[path]:
            quantizer.set_range(*self._proposed[path][number])
            values = {**self.env, read: quantizer(self.env[read])}
            args, kwargs = fx.node.map_arg((reader.args, reader.kwargs), values.__getitem__)
            assert callable(reader.target)
            self.errors[path][number] += _energy(reader.target(*args, **kwargs) - result) / energy


def _energy(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.float())) ** 2
