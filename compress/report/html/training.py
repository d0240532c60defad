"""What training said, epoch by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.html.curves import MOST_POINTS, Curve, curves, thinned
from compress.report.html.parts import figure, folded, grid, section, stage_names, table
from compress.tables import html_escaped

# Heading, what an epoch holds, what it is multiplied by, and how it is shown.
EPOCH = (
    ("epoch", "number", 1, "d"),
    ("steps", "steps", 1, "d"),
    ("samples", "samples", 1, "d"),
    ("loss", "loss", 1, ".4f"),
    ("accuracy %", "accuracy", 100, ".2f"),
    ("validation %", "score", 100, ".2f"),
    ("rate", "lr", 1, ".3g"),
    ("seconds", "seconds", 1, ".1f"),
    ("waiting %", "waiting", 100, ".0f"),
)


def training(report: dict[str, Any]) -> str:
    """Curves and numbers of each stage that trained; nothing where none did."""
    found = []
    for name, stage in zip(stage_names(report), report["stages"], strict=True):
        epochs = _epochs(stage)
        if epochs:
            found += [f"<h3>{html_escaped(name)}</h3>\n", grid(*_curves(name, epochs)), _numbers(name, epochs)]
    return section("Training", *found)


def _epochs(stage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The epochs in a stage's details, which passes of other packages may fill with what they like."""
    rows = stage.get("details", {}).get("training")
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, dict) and all(_is_number(row.get(name)) for name in ("number", "loss"))]


def _curves(name: str, epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    pictures = [figure("Loss, mean of each epoch", curves(f"{name}, loss", "loss", [_curve("loss", epochs, "loss", 1)]))]
    kinds = (("while training", "accuracy"), ("validation", "score"))
    known = [(title, key) for title, key in kinds if any(_is_number(row.get(key)) for row in epochs)]
    if known:
        lines = [_curve(title, epochs, key, 100) for title, key in known]
        caption = "Accuracy" + (f", {known[0][0]}" if len(known) == 1 else "")
        pictures.append(figure(caption, curves(f"{name}, accuracy in %", "accuracy, %", lines)))
    return pictures


def _curve(title: str, epochs: Sequence[Mapping[str, Any]], key: str, scale: float) -> Curve:
    return Curve(title, [(row["number"], scale * row[key]) for row in epochs if _is_number(row.get(key))])


def _numbers(name: str, epochs: Sequence[Mapping[str, Any]]) -> str:
    places = [int(number) for number, _ in thinned([(number, 0.0) for number in range(len(epochs))])]
    rows = [tuple(_shown(epochs[place].get(key), scale, form) for _, key, scale, form in EPOCH) for place in places]
    caption = f"{name}: epochs" + (f", {MOST_POINTS} of {len(epochs)}" if len(epochs) > MOST_POINTS else "")
    return folded("The epochs as a table", table(caption, [heading for heading, *_ in EPOCH], rows, left=()))


def _shown(value: Any, scale: float, form: str) -> str:
    if not _is_number(value):
        return "-"
    return format(int(value), "d") if form == "d" else format(scale * value, form)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
