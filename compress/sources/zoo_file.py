"""MODEL as a name in `model_zoo.yaml`."""

from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.sources import hub
from compress.sources.source import Source
from compress.sources.weights import classes_in, load_weights_, read_weights

PACKAGE = Path(__file__).parent.parent


@cache
def entries() -> dict[str, dict[str, Any]]:
    """The zoo. The file stands beside the package in a checkout, and inside it once installed."""
    for path in (PACKAGE / "model_zoo.yaml", PACKAGE.parent / "model_zoo.yaml"):
        if path.is_file():
            return yaml.safe_load(path.read_text(encoding="utf8"))
    raise FileNotFoundError("model_zoo.yaml is neither in the package nor beside it")


def build(entry: dict[str, Any], classes: int) -> nn.Module:
    """The architecture of an entry with a builder, randomly initialized."""
    module, _, function = entry["builder"].partition(":")
    return getattr(import_module(module), function)(num_classes=classes).eval()


def load(name: str, weights: str | None) -> Source:
    """A model of the zoo, with the entry's weights or those of a file.

    Raises:
        UserError: the entry has no weights and none are given, they do not fit, or the hub cannot be reached.
    """
    entry = entries()[name]
    if "hub" in entry:
        source = hub.load(entry["hub"], weights)
        return replace(source, data=entry.get("data"), defaults=entry.get("defaults", {}))
    if weights is None and "weights" not in entry:
        raise UserError(f"the zoo has no weights for {name}; give a state dict with --weights FILE")
    path = Path(weights) if weights is not None else PACKAGE / "models" / entry["weights"]
    state = read_weights(path)
    classes = classes_in(state) or entry["classes"]
    entry = {**entry, **entry.get("variants", {}).get(classes, {})}
    model = build(entry, classes)
    load_weights_(model, state, path)
    return Source(
        model=model,
        origin={"kind": "zoo", "name": name, "classes": classes},
        preprocess=Preprocess.from_dict(entry["preprocess"]),
        data=entry.get("data"),
        defaults=entry.get("defaults", {}),
    )


def rebuild(origin: dict[str, Any]) -> nn.Module:
    """The architecture that `load` recorded."""
    return build(entries()[origin["name"]], origin["classes"])
