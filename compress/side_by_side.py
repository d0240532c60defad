"""The original and the compressed network, timed side by side."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.artifact import Artifact
from compress.folder import BASELINE, HALF, MODEL
from compress.measure import open_onnx, open_torch, peak_memory_bytes, time_interleaved
from compress.measure.environment import available_cores
from compress.measure.latency import Latency, ratio_with_interval
from compress.pipeline import latency_row
from compress.quant.targets import target_of


def side_by_side(
    artifact: Artifact, folder: Path, threads: int, limits: dict[str, float], *, half: bool = False
) -> list[dict[str, Any]]:
    """The two files of a run in every runtime that is here; the first two rows are the headline's.

    Args:
        folder: that holds the files.
        threads: of the headline.
        limits: of the timing loop, see `time_interleaved`.
        half: whether there is a file in half precision, too.
    """
    single = [x[:1].numpy() for x in artifact.task.example_inputs]
    rows: list[dict[str, Any]] = []
    for runtime, cores in usable_runtimes(threads, target_of(artifact.model).name):
        if runtime.startswith("torch"):
            models = {BASELINE: copy.deepcopy(artifact.reference), MODEL: copy.deepcopy(artifact.last_float)}
            example = artifact.task.example_inputs
            sessions = {f"{name} (torch)": open_torch(m, example, runtime, cores) for name, m in models.items()}
        else:
            names = [BASELINE, MODEL] + ([HALF] if half and runtime == "ort-cuda" else [])
            sessions = {name: open_onnx(folder / name, runtime, cores) for name in names}
        calls = {name: _call(session, single) for name, session in sessions.items()}
        times = time_interleaved(calls, **limits)  # type: ignore[arg-type]
        first = next(iter(times.values()))
        for name, samples in times.items():
            file = folder / name
            memory = peak_memory_bytes(file, [x.shape for x in single], cores) if runtime == "ort-cpu" else None
            rows.append(benchmark(name, Latency(samples, 1, runtime, cores), first, memory))
    return rows


def benchmark(file: str, latency: Latency, baseline_ms: np.ndarray, memory: int | None) -> dict[str, Any]:
    """A row of the report's `benchmarks`; `speedup` is baseline over this one, with its 95 % interval."""
    ratio, low, high = ratio_with_interval(baseline_ms, latency.samples_ms)
    return {
        "file": file,
        "latency_ms": latency_row(latency),
        "histogram": latency.histogram(),
        "runs": len(latency.samples_ms),
        "throughput": latency.throughput,
        "peak_memory_bytes": memory,
        "speedup": ratio,
        "speedup_interval": [low, high],
    }


def _call(session: Any, arrays: list[np.ndarray]) -> Callable[[], object]:
    given = [np.ascontiguousarray(x, dtype=i.dtype) for x, i in zip(arrays, session.inputs, strict=True)]
    return lambda: session.run(*given)


def usable_runtimes(threads: int, target: str = "ort-cpu") -> list[tuple[str, int]]:
    """(runtime, threads) that a run measures here: `target` always, on `threads` and on all cores; ONNX Runtime's CUDA provider
    and torch where there is a GPU."""
    found = [(target, threads)]
    if available_cores() != threads:
        found.append((target, available_cores()))
    if torch.cuda.is_available():
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            found.append(("ort-cuda", threads))
        found.append(("torch-cuda", threads))
    return found
