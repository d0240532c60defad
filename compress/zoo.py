"""MODEL and --data: from what a person writes to a model and its Task."""

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from compress.data.fashion_mnist import BUNDLED, read_folder
from compress.data.fashion_mnist_full import read_full
from compress.data.image_folder import read_image_folder
from compress.data.images import ImageData, image_task
from compress.data.npz import read_npz
from compress.data.preprocess import Preprocess
from compress.data.text import text_task
from compress.errors import UserError
from compress.sources import hub, python_file, timm_models, torchvision_models, zoo_file
from compress.sources.examples import example_inputs
from compress.sources.source import Source
from compress.task import Task

LIBRARIES: dict[str, Callable[[str, str | None], Source]] = {
    hub.PREFIX: hub.load,
    torchvision_models.PREFIX: torchvision_models.load,
    timm_models.PREFIX: timm_models.load,
}
# What MODEL and --data may look like, beside the names in the zoo.
MODEL_FORMS = ("hf:ID_OR_FOLDER", "torchvision:NAME", "timm:NAME", "FILE.py:FUNCTION")
DATA = ("fashion-mnist", "fashion-mnist-full", "imagefolder:DIR", "npz:FILE", "jsonl:FILE", "FILE.py:FUNCTION")


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
    source = _load(spec, weights)
    if weights is not None:  # a run that is resumed must not go on with other numbers under the same name
        source.origin["weights_sha256"] = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return source


def _load(spec: str, weights: str | None) -> Source:
    if spec in zoo_file.entries():
        return zoo_file.load(spec, weights)
    for prefix, load_from in LIBRARIES.items():
        if spec.startswith(prefix):
            return load_from(spec.removeprefix(prefix), weights)
    if python_file.is_python_file(spec):
        return python_file.load(spec, weights)
    if (Path(spec) / hub.CONFIG).is_file():
        raise UserError(f"'{spec}' is a folder; load it as hf:{spec}")
    raise UserError(f"unknown model '{spec}'." + _near(spec, (*names(), *MODEL_FORMS)))


_REBUILD: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "zoo": zoo_file.rebuild,
    "hub": hub.rebuild,
    "torchvision": torchvision_models.rebuild,
    "timm": timm_models.rebuild,
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


def load_task(
    source: Source, data: str | None, limit_train: int | None = None, limit_eval: int | None = None, *, optional: bool = False
) -> Task:
    """The Task for a model: that of the user's own function, or the data set named in `data`, or the model's default.

    Args:
        source: its model is not run; classes are checked against `origin["classes"]`.
        limit_train, limit_eval: how many samples to read; None reads all.
        optional: without data, a task of random inputs, where their shape is known.

    Raises:
        UserError: no data given, unknown or empty data, or labels that do not fit the model.
    """
    if data is None and source.task is not None:
        return source.task
    spec = data or source.data
    if spec is None and optional and (inputs := example_inputs(source)) is not None:
        return Task(inputs)
    if spec is None:
        raise UserError("this model has no default data set; give one with --data: " + ", ".join(DATA))
    if python_file.is_python_file(spec):
        return python_file.task_from(spec)
    kind, _, place = spec.partition(":")
    if kind not in {form.partition(":")[0] for form in DATA}:
        raise UserError(f"unknown data set '{spec}'." + _near_data(spec))
    if kind in ("imagefolder", "npz", "jsonl") and not place:
        raise UserError(f"{kind} needs a {'folder' if kind == 'imagefolder' else 'file'}: {_form(kind)}")
    if kind == "jsonl":
        return _text_task(source, Path(place).expanduser(), limit_train, limit_eval)
    preprocess = source.preprocess
    if preprocess is None:
        raise UserError(
            "nothing is known about the images that this model takes; "
            f"give a Task with --data FILE.py:FUNCTION instead of '{spec}'"
        )
    images = _images(kind, place, preprocess, source, limit_train, limit_eval)
    _check_fit(images, preprocess, source.origin.get("classes"), spec)
    return image_task(images, preprocess)


def _images(kind: str, place: str, preprocess: Preprocess, source: Source, train: int | None, evaluate: int | None) -> ImageData:
    path = Path(place).expanduser()
    if kind == "imagefolder":
        return read_image_folder(path, preprocess, source.labels, source.origin.get("classes"), train, evaluate)
    if kind == "npz":
        return read_npz(path, train, evaluate)
    if kind == "fashion-mnist" and place:
        raise UserError(f"fashion-mnist is bundled and takes no folder; did you mean 'fashion-mnist-full:{place}'?")
    images = read_folder(BUNDLED) if kind == "fashion-mnist" else read_full(place)
    return images.limited(train, evaluate)


def _check_fit(images: ImageData, preprocess: Preprocess, outputs: int | None, spec: str) -> None:
    """Refuse labels that are no output of the model, and colours for a model that takes grey.

    Arrays may hold some of the model's classes; a data set that is known by name has those that it has.
    """
    fits = (
        outputs is None
        or len(images.classes) == outputs
        or (len(images.classes) < outputs and not spec.startswith("fashion-mnist"))
    )
    if not fits:
        raise UserError(
            f"class-count mismatch: '{spec}' has {len(images.classes)} classes (0 to {len(images.classes) - 1}), "
            f"the model has {outputs} outputs"
        )
    channels = images.test_images.shape[1]
    if channels == 3 and preprocess.channels == 1:
        raise UserError(f"'{spec}' holds images of 3 channels, the model takes 1")


def _text_task(source: Source, path: Path, limit_train: int | None, limit_eval: int | None) -> Task:
    origin = source.origin
    is_text = origin.get("kind") == "hub" and origin["task"] == "text"
    tokenizer = source.tokenizer or (hub.tokenizer(origin) if is_text else None)
    if tokenizer is None:
        why = "its folder holds no tokenizer" if is_text else "it is no text model"
        raise UserError(f"'jsonl:{path}' needs a model with a tokenizer, and this one has none: {why}")
    return text_task(path, tokenizer, origin["inputs"], source.labels, origin["classes"], limit_train, limit_eval)


def _form(kind: str) -> str:
    return next(form for form in DATA if form.partition(":")[0] == kind)


def _near(spec: str, forms: tuple[str, ...]) -> str:
    """The form whose part before the colon is closest, or all of them."""
    heads = {form.partition(":")[0]: form for form in forms}
    near = difflib.get_close_matches(spec.partition(":")[0], list(heads), n=1, cutoff=0.55)
    return f" Did you mean '{heads[near[0]]}'?" if near else f" Known: {', '.join(forms)}."


def _near_data(spec: str) -> str:
    """A file or a folder without its prefix is the likeliest mistake."""
    path = Path(spec)
    kind = "imagefolder" if path.is_dir() else path.suffix.removeprefix(".")
    if path.exists() and kind in ("imagefolder", "npz", "jsonl"):
        return f" Did you mean '{kind}:{spec}'?"
    return _near(spec, DATA)
