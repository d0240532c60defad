"""Layer by layer: width, zeros, integers."""

from collections.abc import Sequence
from typing import Any

from compress.report.html.bars import Bar, bars
from compress.report.html.parts import figure, folded, grid, paragraph, section, stage_names, table
from compress.report.markdown import TRIAL_COLUMNS, trial_row
from compress.report.text import coverage_text

MOST_ROWS = 250  # of layers that are drawn or listed; a page stays light
ROWS = 30  # of one picture
WIDTH = 440
LEAST_ZEROS = 0.01  # a share below is no sparsity: trained weights hold a few zeros

Layer = dict[str, Any]


def layers(report: dict[str, Any]) -> str:
    """Widths before and after, and zeros where there are any; of a report without layers nothing."""
    rows: list[Layer] = report.get("layers", [])
    if not rows:
        return ""
    changed = [row for row in rows if row["width_before"] != row["width_after"]]
    sparse = [row for row in rows if (row["sparsity"] or 0) >= LEAST_ZEROS]
    inside = []
    if changed:
        inside += [
            paragraph(
                "Output channels of convolutions and features of linear layers: the outline is the original, filled is what "
                f"is left. {len(changed)} of {len(rows)} layers changed."
            ),
            _pictures("Width", [_width(row) for row in rows]),
        ]
    else:
        inside.append(paragraph(f"All {len(rows)} convolutions and linear layers have the width that they had."))
    if sparse:
        title = f"Share of weights that are zero, in {len(sparse)} of {len(rows)} layers."
        inside += [paragraph(title), _pictures("Zeros in weights", [_zeros(row) for row in sparse])]
    if len(rows) > MOST_ROWS:
        inside.append(paragraph(f"Only the first {MOST_ROWS} of {len(rows)} layers are shown; report.json has all.", "muted"))
    cells = [(row["name"], _text(row["width_before"]), _text(row["width_after"]), _percent(row["sparsity"])) for row in rows]
    listing = table("Layers", ("layer", "width before", "width after", "zeros %"), cells[:MOST_ROWS])
    return section("Layers", *inside, folded("The same as a table", listing))


def _width(row: Layer) -> Bar:
    before, after = row["width_before"], row["width_after"]
    if before is None or after is None:
        return Bar(row["name"], None, f"new, {after}" if before is None else f"{before}, replaced")
    return Bar(row["name"], after / before, f"{before}" if before == after else f"{before} → {after}")


def _zeros(row: Layer) -> Bar:
    return Bar(row["name"], row["sparsity"], f"{100 * row['sparsity']:.1f} %")


def _pictures(what: str, rows: Sequence[Bar]) -> str:
    shown = rows[:MOST_ROWS]
    parts = [shown[start : start + ROWS] for start in range(0, len(shown), ROWS)]
    pictures = []
    for number, part in enumerate(parts):
        which = f", layers {number * ROWS + 1} to {number * ROWS + len(part)}" if len(parts) > 1 else ""
        pictures.append(figure(what + which, bars(what, part, WIDTH, full=1.0)))
    return grid(*pictures)


def integers(report: dict[str, Any]) -> str:
    """What is computed in integers, what is not and why, and what a search within a bound tried; nothing without int8."""
    coverage = report["integer_coverage"]
    if not coverage_text(coverage):
        return ""
    kinds = {kind: counts for kind, counts in coverage.items() if kind != "left_in_float" and counts[1]}
    rows = [
        Bar(kind, done / total, f"{done} of {total}", class_="end" if done == total else "")
        for kind, (done, total) in kinds.items()
    ]
    left = [(layer["name"], layer["reason"]) for layer in coverage["left_in_float"]]
    inside = [
        paragraph("Operators in int8, counted in the graph that ONNX Runtime executes after its own optimization."),
        grid(figure("Share in int8", bars("In int8", rows, WIDTH, full=1.0))),
    ]
    if left:
        inside.append(table("Left in float", ("layer", "why"), left[:MOST_ROWS], left=(0, 1)))
    if len(left) > MOST_ROWS:
        inside.append(paragraph(f"The first {MOST_ROWS} of {len(left)}; report.json has all.", "muted"))
    inside += _searches(report)
    inside.append(
        paragraph("compress inspect DIR measures how far the output of each layer is from that without rounding, in dB.", "muted")
    )
    return section("Integers", *inside)


def _searches(report: dict[str, Any]) -> list[str]:
    found = []
    for name, stage in zip(stage_names(report), report["stages"], strict=True):
        trials = stage.get("details", {}).get("guard", {}).get("trials", [])
        if trials:
            rows = [trial_row(trial) for trial in trials[:MOST_ROWS]]
            found.append(table(f"{name}: networks that were tried, on validation data", TRIAL_COLUMNS, rows))
    return found


def _text(width: int | None) -> str:
    return "-" if width is None else str(width)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
