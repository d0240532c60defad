"""Timing of ONNX files side by side, whatever wrote them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.errors import UserError
from compress.folder import BASELINE, MODEL
from compress.measure import open_onnx, open_torch, peak_memory_bytes, time_interleaved
from compress.measure.environment import describe_environment
from compress.measure.latency import Latency
from compress.measure.runtimes import Session
from compress.run import load
from compress.side_by_side import benchmark
from compress.store import MANIFEST, read_manifest

DEFAULT_SIZE = (224, 224)


def expand(paths: Sequence[Path], runtime: str) -> list[Path]:
    """The files to time: a run's folder stands for its baseline and its model, or in torch for the folder itself."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and not runtime.startswith("torch"):
            found += [path / BASELINE, path / MODEL]
        else:
            found.append(path)
    return found


def bench(
    paths: Sequence[Path],
    *,
    runtime: str = "ort-cpu",
    batch: int = 1,
    input_size: tuple[int, int] | None = None,
    threads: int = 1,
    timing: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Time files (or folders of runs) interleaved, on random inputs, and give rows with the ratio to the first.

    Args:
        runtime: one of `compress.measure.RUNTIMES`; the torch runtimes take folders of runs.
        batch: samples per call; the files must have a dynamic batch unless it is the one they were made for.
        input_size: height and width in pixels, for files that leave them open. None: as the run's manifest says, or 224.

    Raises:
        UserError: a file that cannot be opened, or a size that it does not take.
    """
    files = expand(paths, runtime)
    sessions: dict[str, Session] = {}
    inputs: dict[str, list[np.ndarray]] = {}
    for path in files:
        name = str(path)
        sessions[name] = _open(path, runtime, threads)
        shapes = _shapes(path, sessions[name], batch, input_size)
        inputs[name] = [_random(shape, i.dtype) for shape, i in zip(shapes, sessions[name].inputs, strict=True)]
    calls = {name: (lambda s=session, x=inputs[name]: s.run(*x)) for name, session in sessions.items()}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:  # each runtime raises its own kind
            given = ", ".join(str(x.shape) for x in inputs[name])
            raise UserError(f"{name} does not run on inputs of shape {given}: {str(error).splitlines()[0]}") from None
    times = time_interleaved(calls, **(timing or {}))  # type: ignore[arg-type]
    first = next(iter(times.values()))
    rows = []
    for name, samples in times.items():
        shapes = [x.shape for x in inputs[name]]
        is_file = Path(name).is_file()
        memory = peak_memory_bytes(name, shapes, threads) if is_file and runtime == "ort-cpu" else None
        row = benchmark(name, Latency(samples, batch, runtime, threads), first, memory)
        size = Path(name).stat().st_size if is_file else None
        rows.append({**row, "size_bytes": size, "input_shape": [list(shape) for shape in shapes]})
    return {"environment": describe_environment(threads), "rows": rows}


def _open(path: Path, runtime: str, threads: int) -> Session:
    if not runtime.startswith("torch"):
        return open_onnx(path, runtime, threads)
    if not path.is_dir():
        raise UserError(f"{runtime} runs torch models: give the folder of a run, not {path}")
    manifest = read_manifest(path)
    if manifest["quantization"] is not None:
        raise UserError(f"{path} holds an int8 model, which torch only simulates in float; time its files with ort-cpu instead")
    shapes = manifest["input_shape"]
    return open_torch(load(path), tuple(torch.zeros(shape) for shape in shapes), runtime, threads)


def _shapes(path: Path, session: Session, batch: int, size: tuple[int, int] | None) -> list[tuple[int, ...]]:
    """A concrete shape for each input of an opened model."""
    beside = path if path.is_dir() else path.parent
    known = read_manifest(beside)["input_shape"] if (beside / MANIFEST).is_file() else [None] * len(session.inputs)
    found = []
    for declared, expected in zip(session.inputs, known, strict=False):
        shape = [batch if axis == 0 and not isinstance(dim, int) else dim for axis, dim in enumerate(declared.shape)]
        if isinstance(declared.shape[0], int) and declared.shape[0] != batch:
            raise UserError(f"{path} was exported for a batch of {declared.shape[0]}, not {batch}")
        if len(shape) == 4:
            wanted = size or (tuple(expected[2:]) if expected else DEFAULT_SIZE)
            for axis, pixels in zip((2, 3), wanted, strict=True):
                if isinstance(shape[axis], int) and size is not None and shape[axis] != pixels:
                    raise UserError(f"{path} was exported for images of {shape[2]}x{shape[3]}, not {size[0]}x{size[1]}")
                shape[axis] = pixels if not isinstance(shape[axis], int) else shape[axis]
        else:
            shape = [dim if isinstance(dim, int) else (expected[axis] if expected else 128) for axis, dim in enumerate(shape)]
        found.append(tuple(int(dim) for dim in shape))
    return found


def _random(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    generator = np.random.default_rng(0)
    if np.issubdtype(dtype, np.floating):
        return generator.standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype)  # token ids and masks: 1 is valid for both
