"""Calibration data: all of them, looked at; and the first samples, in batches that a graph takes."""

from collections.abc import Iterable, Iterator

from torch import Tensor, fx

from compress.errors import UserError
from compress.outputs import fixed_batch, in_batches


def without_nan(graph_module: fx.GraphModule, batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The batches, each looked at before it is given out. Infinities pass, since a mask may hold them.

    Raises:
        UserError: one is no tuple of as many tensors as the graph has inputs, or holds NaN; names the input and the first such
            sample.
    """
    names = [str(node.target) for node in graph_module.graph.nodes if node.op == "placeholder"]
    seen = 0
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != len(names):
            given = f"{len(batch)} of them" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
            wanted = f"{len(names)} tensor{'s' * (len(names) > 1)}"
            raise UserError(f"Task.calibration must give a tuple of {wanted} for each batch, got {given}")
        for name, x in zip(names, batch, strict=True):
            broken = x.isnan().reshape(len(x), -1).any(1)
            if broken.any():
                sample = seen + int(broken.int().argmax()) + 1
                raise UserError(f"the calibration data hold NaN: sample {sample}, in the input '{name}'; check the data")
        seen += len(batch[0])
        yield batch


def first_samples(
    graph_module: fx.GraphModule, batches: Iterable[tuple[Tensor, ...]], count: int
) -> Iterator[tuple[Tensor, ...]]:
    """Inputs of at most `count` samples, without asking for a batch more; of a graph that fixes its batch, whole batches."""
    size = fixed_batch(graph_module)
    left = count
    for batch in batches:
        few = batch if size is not None else tuple(x[:left] for x in batch)
        yield from in_batches(graph_module, few)
        left -= len(few[0])
        if left <= 0:
            return
