"""Several processes that train one model, and what they say to each other.

The process of rank 0 does all of a run; the others take their part of every training batch, and wait meanwhile. Who asks here
need not know how many there are: outside of `joined` it is one, and all of this costs nothing.

Torch's distributed engine carries it: gloo for what is said and for numbers on the CPU, NCCL for numbers on GPUs.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from compress.errors import CompressError, UserError, WorkerError

Value = TypeVar("Value")

# Nothing is said while rank 0 measures or searches, however long that takes; a process that ends is noticed at once.
LONGEST = timedelta(days=7)
PER_CORE = 4  # of processes: one is enough, and more only try out what a larger machine would do
ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
CONTINUE = "what was finished is kept, and --resume with the same options and --out continues it"


@dataclass(frozen=True)
class Membership:
    """A process among others: its rank, from 0, of `count`; and the same among those on its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1


ALONE = Membership()

_mine: ContextVar[Membership] = ContextVar("membership", default=ALONE)
_nccl: list[Any] = []  # the group for GPUs, once there is one


def membership() -> Membership:
    """Of this process; alone unless it has joined others."""
    return _mine.get()


def count() -> int:
    """Processes that train together."""
    return _mine.get().count


def first() -> bool:
    """Whether this is the process that decides, measures, writes and prints."""
    return _mine.get().rank == 0


def launched() -> bool:
    """Whether torchrun, or what sets its environment variables, started this process as one of several."""
    return all(name in os.environ for name in ENVIRONMENT) and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def joined_as_launched() -> Iterator[None]:
    """`joined`, by the environment variables that torchrun and Ray Train set."""
    check_gloo()
    from torch.distributed.rendezvous import rendezvous  # not there in builds without gloo

    store, rank, size = next(rendezvous("env://"))
    local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    with joined(store, Membership(rank, size, *local)):
        yield


@contextmanager
def joined(store: Any, mine: Membership) -> Iterator[None]:
    """Be one of several processes within; all of them meet at the start. An error in one of them ends all.

    A group of processes that is there already, by gloo, is taken over, and ended as one of its own.

    Args:
        store: a torch.distributed store that all of them reach.

    Raises:
        UserError: torch has no gloo.
        WorkerError: in rank 0, one of the others failed or was lost; in the others, any was.
    """
    check_gloo()
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=store, rank=mine.rank, world_size=mine.count, timeout=LONGEST)
    token = _mine.set(mine)
    try:
        yield
    except WorkerError:
        failed = [f"rank {rank} failed: {words}" for rank in range(mine.count) if (words := _last_words(store, rank))]
        if failed and first():
            raise WorkerError(failed[0]) from None
        raise
    except Exception as error:
        store.set(f"error/{mine.rank}", str(error) if isinstance(error, CompressError) else f"{type(error).__name__}: {error}")
        raise
    finally:
        _mine.reset(token)
        _nccl.clear()
        dist.destroy_process_group()


def _last_words(store: Any, rank: int) -> str:
    try:
        return store.get(f"error/{rank}").decode() if store.check([f"error/{rank}"]) else ""
    except RuntimeError:  # the store was in a process that is gone
        return ""


def check_gloo() -> None:
    """Raise UserError unless processes can talk to each other."""
    if not (dist.is_available() and dist.is_gloo_available()):
        raise UserError("this build of torch has no gloo, by which processes talk to each other; leave --processes out")


def check_fits(count: int, cores: int) -> None:
    """Raise UserError where `count` processes on `cores` of one machine could only be in each other's way."""
    if count > PER_CORE * cores:
        raise UserError(
            f"{count} processes are more than {PER_CORE} per core (cores that this run may use: {cores}); "
            f"--processes {cores} is enough for them"
        )


@contextmanager
def alone() -> Iterator[None]:
    """Do without the others within, who wait."""
    token = _mine.set(ALONE)
    try:
        yield
    finally:
        _mine.reset(token)


def told(make: Callable[[], Value]) -> Value:
    """What `make` gives in rank 0, in every process; elsewhere it is not called."""
    if count() == 1:
        return make()
    said = [make() if first() else None]
    with _talking():
        dist.broadcast_object_list(said, src=0)
    return said[0]  # type: ignore[return-value]


def gathered(value: Value) -> list[Value]:
    """The values of all processes, by rank, in rank 0; elsewhere nothing."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count() if first() else []
    with _talking():
        dist.gather_object(value, found if first() else None, dst=0)
    return found


def summed(*values: float) -> tuple[float, ...]:
    """The sum over all processes of each number, the same to the bit in all of them."""
    if count() == 1:
        return values
    numbers = torch.tensor(values, dtype=torch.float64)
    summed_(numbers)
    return tuple(numbers.tolist())


def summed_(tensor: Tensor) -> None:
    """Replace a contiguous tensor by its sum over all processes, the same to the bit in all of them."""
    if count() == 1:
        return
    with _talking():
        if tensor.is_cuda and not _nccl:
            _nccl.append(dist.new_group(backend="nccl"))
        dist.all_reduce(tensor, group=_nccl[0] if tensor.is_cuda else None)


@torch.no_grad()
def equal_(tensors: Iterable[Tensor]) -> None:
    """Make tensors, in place, what they are in rank 0."""
    if count() == 1:
        return
    tensors = list(tensors)
    for own, given in zip(tensors, told(lambda: [x.detach().cpu() for x in tensors]), strict=True):
        own.copy_(given)


def send(tensor: Tensor, rank: int) -> None:
    """Give a tensor to one process, which knows its shape and its kind."""
    with _talking():
        dist.send(tensor.contiguous().flatten().view(torch.uint8), rank)


def received(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What rank 0 sends."""
    tensor = torch.empty(tuple(shape), dtype=dtype)
    with _talking():
        dist.recv(tensor.flatten().view(torch.uint8), 0)
    return tensor


def share_files(folder: Path, names: Iterable[str]) -> None:
    """Copy the files of these names, those that there are, from rank 0 into every other process's `folder`."""
    if count() == 1:
        return
    files = told(lambda: {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()})
    if not first():
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)


def wait() -> None:
    """Go on when all processes have come here."""
    if count() > 1:
        with _talking():
            dist.barrier()


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise WorkerError(f"a process of this run was killed or lost; {CONTINUE}") from error
