"""The first samples of a calibration set, in batches that a graph takes."""

from collections.abc import Iterable, Iterator

from torch import Tensor, fx

from compress.outputs import fixed_batch, in_batches


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
