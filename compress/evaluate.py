"""Accuracy of a written file on a data set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from compress import zoo
from compress.errors import UserError
from compress.folder import MODEL
from compress.measure import open_onnx
from compress.measure.environment import available_cores
from compress.pipeline import evaluated
from compress.sources.source import Source
from compress.store import MANIFEST, read_manifest


def evaluate_file(
    path: Path,
    data: str,
    *,
    model: str | None = None,
    limit_eval: int | None = None,
    runtime: str = "ort-cpu",
    threads: int | None = None,
) -> dict[str, Any]:
    """`accuracy` (a fraction) and `eval_samples` of an ONNX file, or of the model in a run's folder, on a data set.

    Preprocessing and labels come from the manifest beside the file.

    Args:
        data: as `compress run --data` takes it.
        model: for a file without a manifest: a MODEL whose preprocessing it shares.

    Raises:
        UserError: no such file, or nothing says how images become inputs.
    """
    file = path / MODEL if path.is_dir() else path
    session = open_onnx(file, runtime, threads or available_cores())
    source = _source(file.parent, model, file)
    task = zoo.load_task(replace(source, task=None), data, None, limit_eval)
    accuracy, samples = evaluated(task, session.predict)
    if accuracy is None:
        raise UserError(f"the task of '{data}' has no evaluate function")
    return {"file": str(file), "data": data, "accuracy": accuracy, "eval_samples": samples}


def _source(folder: Path, model: str | None, file: Path) -> Source:
    if model is not None:
        return zoo.load(model)
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"nothing beside {file} says how data become its inputs; name a model with the same preprocessing: --model NAME"
        )
    return Source.from_manifest(read_manifest(folder))
