"""MODEL as `torchvision:NAME`: an image classifier of torchvision, by default with its newest ImageNet weights."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.data.download import fetch
from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.sources.heads import build_for
from compress.sources.libraries import VISION, import_library, near, quiet
from compress.sources.source import Source
from compress.sources.weights import load_weights_, read_weights

PREFIX = "torchvision:"
# Two models have further classifiers that serve training only. They are left out, and their tensors in a state dict too.
WITH_HELPERS = ("googlenet", "inception_v3")
HELPERS = ("aux1", "aux2", "AuxLogits")


def load(name: str, weights: str | None) -> Source:
    """The model with the weights that torchvision calls `DEFAULT`, or those of a state dict.

    Raises:
        UserError: torchvision is missing or broken, has no such model, or its weights cannot be downloaded.
    """
    models = import_library("torchvision.models", VISION)
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(
            f"torchvision has no classification model '{name}'." + near(name, known, "torchvision.models.list_models()")
        )
    default = models.get_model_weights(name).DEFAULT
    options = _options(name, default)
    labels = tuple(default.meta["categories"])
    if weights is None:
        model = _pretrained(models, name, default)
    else:
        state = {key: value for key, value in read_weights(weights).items() if key.partition(".")[0] not in HELPERS}
        model = build_for(state, lambda classes: _build(name, classes or len(labels), options))
        load_weights_(model, state, weights)
    classes = len(list(model.parameters())[-1])
    transform = default.transforms()
    size = transform.crop_size[0]
    return Source(
        model=model.eval(),
        origin={"kind": "torchvision", "name": name, "classes": classes, "options": options},
        preprocess=_preprocess(transform, size),
        labels=labels if classes == len(labels) else (),
    )


def _preprocess(transform: Any, size: int) -> Preprocess:
    """The evaluation transform that comes with the weights."""
    bicubic = "bicubic" in str(getattr(transform, "interpolation", "")).lower()
    mean, std, short = tuple(transform.mean), tuple(transform.std), transform.resize_size[0]
    return Preprocess((size, size), mean, std, resize=short, interpolation="bicubic" if bicubic else "bilinear")


def rebuild(origin: dict[str, Any]) -> nn.Module:
    """The architecture that `load` recorded, randomly initialized."""
    return _build(origin["name"], origin["classes"], origin["options"])


def _build(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    models = import_library("torchvision.models", VISION)
    with quiet():
        return models.get_model(name, weights=None, num_classes=classes, **options).eval()


def _options(name: str, default: Any) -> dict[str, Any]:
    """What building a model without weights must be told to give the architecture that its weights are for."""
    if name in WITH_HELPERS:
        return {"aux_logits": False, "transform_input": True, "init_weights": False}
    if name.startswith("vit_"):
        return {"image_size": default.meta["min_size"][0]}
    return {}


def _pretrained(models: Any, name: str, default: Any) -> nn.Module:
    _download(name, default.url)
    with quiet():
        model: nn.Module = models.get_model(name, weights=default, progress=False)
    if name in WITH_HELPERS:
        _remove_helpers_(model)
    return model


def _remove_helpers_(model: nn.Module) -> None:
    """Take the further classifiers away, in place; torchvision cannot load its weights without them."""
    model.aux_logits = False  # type: ignore[assignment]
    for helper in HELPERS:
        if hasattr(model, helper):
            setattr(model, helper, None)


def _download(name: str, url: str) -> None:
    """Put the weights where torchvision looks for them, and make sure that they are tensors only.

    torchvision would unpickle whatever the file holds. A file that `weights_only=True` accepts has no code in it.
    """
    file = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    start_of_sha256 = file.rpartition("-")[2].partition(".")[0]
    read_weights(fetch(url, path, start_of_sha256, f"give a state dict of torchvision's {name} with --weights FILE"))
