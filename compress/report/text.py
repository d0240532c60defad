"""The words and columns that terminal, Markdown and HTML share."""

from itertools import pairwise
from typing import Any

# Layers that a line names.
NAMED = 5
# p90 over p50 of one thread on a quiet machine: 1.05 to 1.3. Above, something else ran beside what was timed. On all cores a
# quiet machine has up to 3.2, too, which says nothing.
STEADY = 1.5
COLUMNS = ("stage", "accuracy %", "ms p50", "p90", "size MB", "params M", "MMACs", "seconds")


def row(stage: dict[str, Any]) -> tuple[str, ...]:
    """A stage as one text per column of `COLUMNS`; MB are 10^6 bytes."""
    accuracy = "-" if stage["accuracy"] is None else f"{100 * stage['accuracy']:.2f}"
    latency = stage["latency_ms"]
    return (
        stage["name"],
        accuracy,
        f"{latency['p50']:.3f}",
        f"{latency['p90']:.3f}",
        f"{stage['size_bytes'] / 1e6:.2f}",
        f"{stage['params'] / 1e6:.3f}",
        f"{stage['macs'] / 1e6:.1f}",
        f"{stage['seconds']:.1f}",
    )


def stage_table(report: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and a row for each stage, with how much faster and smaller than the baseline, from the columns beside it."""
    first = report["stages"][0]
    rows = []
    for stage in report["stages"]:
        faster = first["latency_ms"]["p50"] / stage["latency_ms"]["p50"]
        rows.append((*row(stage), f"{faster:.2f}x", f"{first['size_bytes'] / stage['size_bytes']:.2f}x"))
    return (*COLUMNS, "faster", "smaller"), rows


def headline(report: dict[str, Any]) -> tuple[str, str]:
    """What the run gained, and what it lost, each in one line."""
    summary, parity, files = report["summary"], report["parity"], report["benchmarks"]
    same_file = [entry for entry in files[1:] if entry["file"] == files[1]["file"]]
    runtime = files[1]["latency_ms"]["runtime"]
    before = {_place(entry): entry["latency_ms"] for entry in files if entry["file"] == files[0]["file"]}
    speeds = [_speed(entry, before[_place(entry)]) for entry in same_file if entry["latency_ms"]["runtime"] == runtime]
    size = summary["size_ratio"]
    gained = f"gained: {'; '.join(speeds)}; " + (f"{size:.1f}x smaller" if size >= 1 else f"{1 / size:.2f}x LARGER")
    coverage = coverage_text(report["integer_coverage"])
    if coverage:
        gained += f", {coverage}"
    agreement = f"torch and ONNX agree on {100 * parity['top1_agreement']:.2f} % of {parity['samples']} samples"
    return gained, f"lost: {_loss(report)}; {agreement}"


def _place(entry: dict[str, Any]) -> tuple[str, int]:
    """Where a file was timed: runtime and threads."""
    return entry["latency_ms"]["runtime"], entry["latency_ms"]["threads"]


def _speed(entry: dict[str, Any], before: dict[str, Any]) -> str:
    """How much faster one measured file is than the baseline beside it, with the interval, runtime and threads."""
    speed, (low, high), latency = entry["speedup"], entry["speedup_interval"], entry["latency_ms"]
    if speed < 1:
        speed, low, high, word = 1 / speed, 1 / high, 1 / low, "SLOWER"
    else:
        word = "faster"
    threads = f"{latency['threads']} thread" + ("s" if latency["threads"] != 1 else "")
    unsteady = latency["threads"] == 1 and any(times["p90"] > STEADY * times["p50"] for times in (before, latency))
    doubt = ", UNSTEADY: repeat it with compress bench on a quiet machine" if unsteady else ""
    return f"{speed:.2f}x {word} ({low:.2f} to {high:.2f}{doubt}; {latency['runtime']}, batch {latency['batch']}, {threads})"


def _loss(report: dict[str, Any]) -> str:
    drop, stages = report["summary"]["accuracy_drop"], report["stages"]
    if drop is None:
        return "not measured, since there are no evaluation data"
    before, after = stages[0]["accuracy"], stages[-1]["accuracy"]
    points = f"{100 * drop:.2f} points of accuracy" if drop >= 0 else f"nothing, accuracy rose by {-100 * drop:.2f} points"
    return f"{points} ({100 * before:.2f} % to {100 * after:.2f} % on {stages[-1]['eval_samples']} samples)"


def coverage_text(coverage: dict[str, Any]) -> str:
    """`20/20 conv, 1/1 linear, 8/8 add in int8`; empty where nothing is."""
    kinds = {kind: counts for kind, counts in coverage.items() if kind != "left_in_float" and counts[1]}
    if not any(done for done, _ in kinds.values()):
        return ""
    return ", ".join(f"{done}/{total} {kind}" for kind, (done, total) in kinds.items()) + " in int8"


def verdicts(report: dict[str, Any]) -> list[str]:
    """What a search within a bound came to, and what a teacher was good for; none for a run without."""
    found = [f"{stage['name']}: {stage['notes'][-1]}" for stage in report["stages"] if "guard" in stage.get("details", {})]
    return found + _teachers(report["stages"])


def _teachers(stages: list[dict[str, Any]]) -> list[str]:
    """Each teacher beside the same training without it; none without a control."""
    pairs = [(one, other) for one, other in pairwise(stages) if one["name"] == f"{other['name']}_control"]
    return [
        f"{taught['name']}: the teacher brings {100 * (taught['accuracy'] - control['accuracy']):+.2f} points "
        f"({100 * control['accuracy']:.2f} % on the labels alone)"
        for control, taught in pairs
        if taught["accuracy"] is not None
    ]


def float_layers(report: dict[str, Any]) -> list[str]:
    """A line for each reason to leave something in float, with the names; none for a run without int8.

    Of many names the first, and how many more: `report.json` holds all.
    """
    coverage = report["integer_coverage"]
    if not coverage_text(coverage):
        return []
    names: dict[str, list[str]] = {}
    for layer in coverage["left_in_float"]:
        names.setdefault(layer["reason"], []).append(layer["name"])
    return [f"{_several(found)} in float: {reason}" for reason, found in names.items()]


def _several(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more} {'stays' if len(names) == 1 else 'stay'}"
