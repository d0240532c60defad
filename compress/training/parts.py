"""A training among several processes: the batches of rank 0 in parts, and one gradient of all parts.

Rank 0 alone iterates over the data, so that the batches, their order and their number are those of a single process, whatever
the data's loader draws its random numbers from.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from compress import workers
from compress.errors import UserError
from compress.measure.environment import available_cores
from compress.training.result import Batches


@dataclass(frozen=True)
class Part:
    """What one process computes of a batch.

    Attributes:
        tensors: `(*inputs, target)`.
        share: of the batch's samples, in (0, 1].
    """

    tensors: tuple[Tensor, ...]
    share: float = 1.0


def parts(train: Callable[[], Batches]) -> Iterator[Part]:
    """This process's part of each batch, equal in size but for one sample; only rank 0 calls `train`.

    Raises:
        UserError: a batch has fewer samples than there are processes.
    """
    if workers.count() == 1:
        yield from (Part(batch) for batch in train())
    elif workers.first():
        yield from _given_out(train())
    else:
        yield from _taken()


def _given_out(batches: Batches) -> Iterator[Part]:
    count = workers.count()
    for number, batch in enumerate(batches, 1):
        size = len(batch[-1])
        if size < count:
            raise UserError(f"batch {number} has {size} samples, too few for {count} processes; use fewer, or larger batches")
        workers.told(partial(_shapes, batch))
        pieces = [x.tensor_split(count) for x in batch]
        for rank in range(1, count):
            for piece in pieces:
                workers.send(piece[rank], rank)
        own = tuple(piece[0] for piece in pieces)
        yield Part(own, len(own[-1]) / size)
    workers.told(partial(_shapes, None))


def _taken() -> Iterator[Part]:
    while (shapes := workers.told(partial(_shapes, None))) is not None:
        own = tuple(workers.received((part_of(shape[0]), *shape[1:]), dtype) for shape, dtype in shapes)
        yield Part(own, len(own[-1]) / shapes[-1][0][0])


def _shapes(batch: tuple[Tensor, ...] | None) -> list[tuple[torch.Size, torch.dtype]] | None:
    """What the others must know before tensors come; None says that none will."""
    return None if batch is None else [(x.shape, x.dtype) for x in batch]


def part_of(samples: int) -> int:
    """How many of them are this process's, as `tensor_split` does it: the first ranks have one more."""
    here = workers.membership()
    return samples // here.count + (here.rank < samples % here.count)


@torch.no_grad()
def sum_gradients_(parameters: Sequence[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in place; a parameter without one in all of them is left without."""
    trained = [p for p in parameters if p.requires_grad]
    if workers.count() == 1 or not trained:
        return
    # After a loss on other data another parameter may be without: how many have one is summed along.
    present = torch.tensor([p.grad is not None for p in trained], device=trained[0].device).to(trained[0].dtype)
    flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained] + [present])
    workers.summed_(flat)
    sizes = [p.numel() for p in trained]
    *sums, present = flat.split([*sizes, len(trained)])
    for p, total, seen in zip(trained, sums, present.tolist(), strict=True):
        if seen:
            p.grad = torch.empty_like(p) if p.grad is None else p.grad
            p.grad.copy_(total.view_as(p))


@torch.no_grad()
def average_statistics_(model: nn.Module) -> None:
    """Let running statistics of batch norm be the mean over all processes, in place, so that every sample has counted.

    The running mean is then that of a single process, but for rounding, where parts are of one size; variances are those
    within the parts. While training each process normalizes by the statistics of its part.
    """
    if workers.count() == 1:
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            for statistic in (module.running_mean, module.running_var):
                assert statistic is not None
                workers.summed_(statistic)
                statistic /= workers.count()


@contextmanager
def fair_share_of_cores() -> Iterator[None]:
    """Compute on as many of the machine's cores as are there for each of its processes, within."""
    before = torch.get_num_threads()
    if workers.count() > 1:
        torch.set_num_threads(max(1, available_cores() // workers.membership().local_count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def own_random_numbers() -> None:
    """Let processes that were seeded alike draw other numbers, such as for dropout; rank 0 goes on as it was."""
    if not workers.first():
        torch.manual_seed(torch.initial_seed() + workers.membership().rank)
