"""MODEL, or data, as `path/file.py:function`: the user's own code, which is executed."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from torch import nn

from compress.errors import UserError, did_you_mean
from compress.sources.source import Source
from compress.sources.weights import load_weights_, read_weights
from compress.task import Task


def is_python_file(spec: str) -> bool:
    """Whether a text has the form `FILE.py:FUNCTION`."""
    return spec.partition(":")[0].endswith(".py")


def call(spec: str, wanted: str) -> Any:
    """What the function returns. The file's folder is importable while it runs.

    Args:
        wanted: what the function should return, for messages.

    Raises:
        UserError: no such file or function, or it raises; names the line.
    """
    file, _, name = spec.partition(":")
    path = Path(file).resolve()
    if not name:
        raise UserError(f"'{spec}' names no function; write {file}:FUNCTION, which returns {wanted}")
    if not path.is_file():
        raise UserError(f"no such file: {file}")
    module_spec = importlib.util.spec_from_file_location(f"compress_user_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and typing look a class's module up there
    sys.path.insert(0, str(path.parent))
    try:
        module_spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if not callable(function):
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise UserError(f"{file} has no function '{name}'." + (did_you_mean(name, known) if known else ""))
        return function()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{file}{_line_in(error, path)}: {type(error).__name__}: {first}") from error
    finally:
        sys.path.remove(str(path.parent))


def _line_in(error: BaseException, path: Path) -> str:
    """`, line N` of the last frame in that file."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(spec: str, weights: str | None) -> Source:
    """The model that the user's function returns, alone or with its Task."""
    wanted = "an nn.Module or (model, Task)"
    result = call(spec, wanted)
    model, task = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(model, nn.Module) or not isinstance(task, Task | None):
        raise UserError(f"{spec} returned {_kind(result)}; {wanted} is needed")
    if weights is not None:
        load_weights_(model, read_weights(weights), weights)
    path = Path(spec.partition(":")[0]).resolve()
    origin = {"kind": "file", "path": str(path), "function": spec.partition(":")[2], "sha256": sha256(path)}
    return Source(model=model.eval(), origin=origin, task=task)


def rebuild(origin: dict[str, Any]) -> nn.Module:
    """The architecture from the same, unchanged file."""
    path = Path(origin["path"])
    if not path.is_file():
        raise UserError(f"the model was built by {path}, which is gone; give the architecture with load(DIR, model=...)")
    if sha256(path) != origin["sha256"]:
        raise UserError(f"the model was built by {path}, which has changed since; restore it, or give load(DIR, model=...)")
    return load(f"{path}:{origin['function']}", None).model


def task_from(spec: str) -> Task:
    """The Task that the user's function returns."""
    result = call(spec, "a Task")
    if not isinstance(result, Task):
        raise UserError(f"{spec} returned {_kind(result)}; a Task is needed")
    return result


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(type(item).__name__ for item in value) + ")"
    return "None" if value is None else f"a {type(value).__name__}"
