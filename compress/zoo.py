"""MODEL and --data: from what a person writes to a model and its Task."""

from collections.abc import Callable
from typing import Any

from torch import nn

from compress.data.fashion_mnist import BUNDLED, read_folder
from compress.data.images import ImageData, image_task
from compress.errors import UserError, did_you_mean
from compress.sources import python_file, zoo_file
from compress.sources.source import Source
from compress.task import Task


def names() -> list[str]:
    """The names in the zoo."""
    return list(zoo_file.entries())


def load(spec: str, weights: str | None = None) -> Source:
    """The model that `spec` names: a zoo name, `hf:ID_OR_FOLDER`, `torchvision:NAME`, `timm:NAME` or `FILE.py:FUNCTION`.

    Args:
        weights: a safetensors file or a state dict to use in place of the source's own weights.

    Raises:
        UserError: unknown name, missing package, file or network, or weights that do not fit.
    """
    if spec in zoo_file.entries():
        return zoo_file.load(spec, weights)
    if python_file.is_python_file(spec):
        return python_file.load(spec, weights)
    raise UserError(f"unknown model '{spec}'." + did_you_mean(spec, names()))


_REBUILD: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "zoo": zoo_file.rebuild,
    "file": python_file.rebuild,
}


def rebuild(origin: dict[str, Any]) -> nn.Module:
    """The architecture, with any weights, that `origin` of a manifest describes."""
    kind = origin.get("kind")
    if kind not in _REBUILD:
        raise UserError(
            "the model was given as a Python object, so its architecture is not on disk; give it: load(DIR, model=...)"
        )
    return _REBUILD[kind](origin)


DATA: dict[str, Callable[[], ImageData]] = {
    "fashion-mnist": lambda: read_folder(BUNDLED),
}


def load_task(source: Source, data: str | None, limit_train: int | None = None, limit_eval: int | None = None) -> Task:
    """The Task for a model: that of the user's own function, or the data set named in `data`, or the model's default.

    Raises:
        UserError: no data given, unknown or empty data, or labels that do not fit the model.
    """
    if data is None and source.task is not None:
        return source.task
    spec = data or source.data
    if spec is None:
        raise UserError("this model has no default data set; give one with --data")
    if python_file.is_python_file(spec):
        return python_file.task_from(spec)
    if spec in DATA:
        images = DATA[spec]()
    else:
        raise UserError(f"unknown data set '{spec}'." + did_you_mean(spec, list(DATA)))
    if source.preprocess is None:
        raise UserError(
            f"nothing is known about the images that this model takes; give a Task with --data FILE.py:FUNCTION instead of '{spec}'"
        )
    return image_task(images.limited(limit_train, limit_eval), source.preprocess)
