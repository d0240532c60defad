"""Which output of a model each class of a data set means."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from compress.errors import UserError, did_you_mean

SYNSET = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000


def match(names: Sequence[str], labels: Sequence[str], outputs: int | None, what: str) -> dict[str, int]:
    """The model's output for each name.

    By the first of these that applies: the model's labels; numbers, which count outputs from 0; WordNet synsets; and, for a
    model without labels, the names' alphabetical order, which is what training on such folders gives.

    Args:
        names: of the data's classes.
        labels: of the model's outputs, in order; empty where unknown. A label may list synonyms with commas (ImageNet).
        outputs: how many the model has; None where unknown.
        what: what the names are, in the plural, for messages.

    Raises:
        UserError: no name, or not every one, matches; or their number is not that of the outputs.
    """
    names = sorted(set(names))
    if labels:
        found = {name: _positions(name, labels) for name in names}
        if any(found.values()):
            return _by_label(found, labels, what)
    count = len(labels) or outputs
    if all(name.isdecimal() for name in names) and (count is None or max(map(int, names)) < count):
        return {name: int(name) for name in names}
    if count == IMAGENET_CLASSES and all(SYNSET.fullmatch(name) for name in names):
        return _by_synset(names, what)
    if labels:
        raise UserError(f"none of the {what} is a label of the model; {what}: {shortened(names)}; labels: {shortened(labels)}")
    if count is not None and len(names) != count:
        raise UserError(
            f"class-count mismatch: {len(names)} {what} ({shortened(names)}), but the model has {count} outputs and no labels"
        )
    return {name: index for index, name in enumerate(names)}


def shortened(items: Sequence[str], shown: int = 5) -> str:
    """`a, b, c`, or the first few and how many there are."""
    return ", ".join(items) if len(items) <= shown + 1 else f"{', '.join(items[:shown])}, ... ({len(items)})"


def _plain(text: str) -> str:
    """What is compared: `Great_white Shark` as `great white shark`."""
    return " ".join(text.replace("_", " ").split()).casefold()


def _positions(name: str, labels: Sequence[str]) -> list[int]:
    """The labels that a name means: those that it equals, else those of which it is a synonym."""
    plain = _plain(name)
    whole = [index for index, label in enumerate(labels) if _plain(label) == plain]
    return whole or [index for index, label in enumerate(labels) if plain in map(_plain, label.split(","))]


def _by_label(found: dict[str, list[int]], labels: Sequence[str], what: str) -> dict[str, int]:
    unknown = [name for name, positions in found.items() if not positions]
    if unknown:
        raise UserError(
            f"{len(unknown)} of the {len(found)} {what} are no label of the model: {shortened(unknown)}."
            + (did_you_mean(unknown[0], list(labels)) if len(labels) <= 20 else f" Labels: {shortened(labels)}")
        )
    for name, positions in found.items():
        if len(positions) > 1:
            raise UserError(
                f"'{name}' names several outputs of the model: {', '.join(map(str, positions))}; "
                f"name all {what} by number instead"
            )
    return {name: positions[0] for name, positions in found.items()}


def _by_synset(names: Sequence[str], what: str) -> dict[str, int]:
    """ImageNet's classes are numbered in the order of their synsets; a part of them needs the whole list, which timm has."""
    order = names if len(names) == IMAGENET_CLASSES else _imagenet_synsets()
    if order is None:
        raise UserError(
            f"the {what} are some of ImageNet's {IMAGENET_CLASSES} synsets: {shortened(names, 2)}; which outputs they mean is "
            "listed in the package timm; install it with: pip install timm, or name the classes by number"
        )
    index = {synset: position for position, synset in enumerate(order)}
    unknown = [name for name in names if name not in index]
    if unknown:
        raise UserError(
            f"{len(unknown)} of the {len(names)} {what} are synsets that ImageNet-1k does not have: {shortened(unknown)}"
        )
    return {name: index[name] for name in names}


def _imagenet_synsets() -> list[str] | None:
    """The synsets in ImageNet's order, from timm's files; timm itself is not imported."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt"
    return path.read_text(encoding="utf8").split() if path.is_file() else None
