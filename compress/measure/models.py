"""The latency of a module or a file in one call."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.measure.latency import Latency, time_one
from compress.measure.runtimes import open_onnx, open_torch


def time_model(
    model: nn.Module | Path | str,
    example_inputs: tuple[Tensor, ...],
    *,
    runtime: str | None = None,
    threads: int = 1,
    **limits: float,
) -> Latency:
    """Milliseconds of single calls at batch 1: of an ONNX file in a runtime, or of a module in torch, which is left as it is.

    Two models that are to be compared want to be timed side by side: `time_interleaved`, `compress bench`.

    >>> times = time_model(nn.Linear(4, 2), (torch.zeros(1, 4),), min_runs=3, min_seconds=0.01)
    >>> times.runtime, times.batch, 0 < times.p50 < 1000
    ('torch-cpu', 1, True)

    Args:
        example_inputs: one tensor per argument of the forward, batch first; the first sample is taken.
        runtime: one of `RUNTIMES`; None: ONNX Runtime on the CPU for a file, torch on the CPU for a module.
        limits: of the timing loop, see `time_interleaved`.

    Raises:
        UserError: no such file, or a runtime that is unknown, not usable here, or not for what was given.
    """
    singles = tuple(x[:1] for x in example_inputs)
    before = torch.get_num_threads()
    if isinstance(model, nn.Module):
        session = open_torch(copy.deepcopy(model), singles, runtime or "torch-cpu", threads)
    else:
        session = open_onnx(model, runtime or "ort-cpu", threads)
    arrays = [x.numpy() for x in singles]
    try:
        return Latency(time_one(lambda: session.run(*arrays), **limits), 1, session.runtime, threads)
    finally:
        torch.set_num_threads(before)
