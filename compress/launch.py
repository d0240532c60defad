"""A run on several processes of this machine."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from compress import workers
from compress.errors import UserError, WorkerError
from compress.measure.environment import available_cores
from compress.recipe import Recipe
from compress.run import Options, Run, run_recipe
from compress.workers import Membership

HOST = "127.0.0.1"
PATIENCE = timedelta(minutes=10)  # for a process to start and to import torch


def run_on_processes(recipe: Recipe, options: Options, count: int) -> Run:
    """`run_recipe`, whose training is shared by `count` processes: this one, which is rank 0, and others that it starts.

    What calls this must be importable without effect, as Python's `multiprocessing` asks: `if __name__ == "__main__":`.

    Raises:
        UserError: as `run_recipe`; or torch has no gloo; or torchrun has already started several processes; or they are more
            than four for each core.
        WorkerError: a process failed or was killed; says which.
    """
    if count == 1:
        return run_recipe(recipe, options)
    if workers.count() > 1:
        raise UserError(f"torchrun has already started {workers.count()} processes; leave --processes out")
    workers.check_gloo()
    workers.check_fits(count, available_cores())
    # On port 0 the system chooses one that is free, and nobody can take it in between.
    store = TCPStore(HOST, 0, is_master=True, timeout=PATIENCE, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks of threads that it does not have
    given = [(store.port, Membership(rank, count, rank, count), recipe, options.device) for rank in range(1, count)]
    with _started([context.Process(target=_work, args=each, daemon=True) for each in given]) as others:
        try:
            _meet(store, others)
            with workers.joined(store, Membership(0, count, 0, count)):
                return run_recipe(recipe, options)
        except WorkerError as error:
            raise _explained(error, others) from None


def _work(port: int, mine: Membership, recipe: Recipe, device: str) -> None:
    """What the other processes do. They print nothing: what fails is told to rank 0."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    store = TCPStore(HOST, port, timeout=PATIENCE)
    store.set(f"ready/{mine.rank}", "")
    try:
        with workers.joined(store, mine):
            run_recipe(recipe, Options(device=device))
    except Exception:
        sys.exit(1)


@contextmanager
def _started(processes: Sequence[BaseProcess]) -> Iterator[Sequence[BaseProcess]]:
    """The processes started, and ended afterwards, whatever happened."""
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _meet(store: TCPStore, others: Sequence[BaseProcess]) -> None:
    """Wait until all processes are there; torch would wait for one that is not for its whole timeout."""
    for rank, process in enumerate(others, 1):
        while not store.check([f"ready/{rank}"]):
            if not process.is_alive():
                raise WorkerError(f"rank {rank} of {len(others) + 1} processes did not start: exit code {process.exitcode}")
            time.sleep(0.05)


def _explained(error: WorkerError, others: Sequence[BaseProcess]) -> WorkerError:
    """The error, with the rank and the signal of a process that was killed."""
    for rank, process in enumerate(others, 1):
        process.join(1)  # the system may close its connections before it is gone
        code = process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return WorkerError(f"rank {rank} of {len(others) + 1} processes was killed by {name}; {workers.CONTINUE}")
    return error
