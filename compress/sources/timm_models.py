"""MODEL as `timm:NAME`: an image classifier of timm, by default with the weights that timm names for it."""

import math
from typing import Any

from torch import nn

from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.progress import report
from compress.sources.heads import build_for
from compress.sources.hub_files import fetch
from compress.sources.libraries import VISION, causes, first_line, import_library, near, quiet
from compress.sources.source import Source
from compress.sources.weights import load_weights_, read_weights

PREFIX = "timm:"


def load(name: str, weights: str | None) -> Source:
    """The model, named with or without a tag (`resnet18`, `resnet18.a1_in1k`), with timm's weights or a state dict's.

    Raises:
        UserError: timm is missing or broken, has no such model or no weights for it, or they cannot be downloaded.
    """
    timm = import_library("timm", VISION)
    known = [*timm.list_models(), *timm.list_pretrained()]
    if name not in known:
        raise UserError(f"timm has no model '{name}'." + near(name, known, "timm.list_models()"))
    if weights is None:
        model = _pretrained(timm, name)
    else:
        state = read_weights(weights)
        model = build_for(state, lambda classes: _build(name, classes))
        load_weights_(model, state, weights)
    classes = int(getattr(model, "num_classes", 0))
    if not classes:
        raise UserError(f"timm's {name} has no classifier; take one that has, or give weights with one: --weights FILE")
    return Source(
        model=model.eval(),
        origin={"kind": "timm", "name": name, "classes": classes},
        preprocess=_preprocess(timm.data.resolve_model_data_config(model)),
        labels=_labels(timm, model),
    )


def rebuild(origin: dict[str, Any]) -> nn.Module:
    """The architecture that `load` recorded, randomly initialized."""
    return _build(origin["name"], origin["classes"])


def _build(name: str, classes: int | None) -> nn.Module:
    timm = import_library("timm", VISION)
    with quiet():
        return timm.create_model(name, pretrained=False, num_classes=classes).eval()


def _pretrained(timm: Any, name: str) -> nn.Module:
    instead = f"give a state dict of timm's {name} with --weights FILE"
    settings = timm.get_pretrained_cfg(name)
    if settings is None or not settings.has_weights:
        raise UserError(f"timm has no weights for {name}; {instead}")
    if settings.hf_hub_id:  # fetched first, with progress; timm then finds the file in the hub's cache
        fetch(settings.hf_hub_id, [settings.hf_hub_filename or "model.safetensors"], instead)
    report(f"load {name}", 0)
    try:
        with quiet():
            return timm.create_model(name, pretrained=True)
    except Exception as error:
        raise UserError(
            f"the weights of timm's {name} cannot be loaded ({first_line(list(causes(error))[-1])}); {instead}"
        ) from error


def _preprocess(settings: dict[str, Any]) -> Preprocess | None:
    """timm's evaluation transform: the short side to size / crop_pct, rounded down, then the centre."""
    channels, height, width = settings["input_size"]
    if channels not in (1, 3):
        return None
    resize = None if settings["crop_mode"] == "squash" else math.floor(min(height, width) / settings["crop_pct"])
    interpolation = "bicubic" if settings.get("interpolation") == "bicubic" else "bilinear"
    return Preprocess((height, width), tuple(settings["mean"]), tuple(settings["std"]), channels, resize, interpolation)


def _labels(timm: Any, model: nn.Module) -> tuple[str, ...]:
    """The names of ImageNet's classes, where the number of outputs is that of one of its editions."""
    subset = timm.data.infer_imagenet_subset(model)
    return tuple(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else ()
