"""The rows of a comparison as plain data, with the unit of each figure in its name."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.comparison.results import Result, Runs, read_results
from compress.comparison.settings import Setting, setting_of

FIGURES = (
    "accuracy_percent",
    "drop_points",
    "latency_ms_p50",
    "latency_ms_p90",
    "size_mb",
    "speedup",
    "size_ratio",
    "params_m",
    "nonzero_params_m",
    "mmacs",
    "seconds",
)
# Those that depend on the seed, or on the moment they were timed at.
SPREADS = ("accuracy_percent", "drop_points", "latency_ms_p50", "size_mb", "speedup", "seconds")
COLUMNS = (
    *("run", "stage", "n"),
    *FIGURES,
    *(f"{name}_std" for name in SPREADS),
    *("passes", "seeds", "setting", "model", "data", "eval_samples", "machine"),
)
BASELINE = "baseline"
LONGEST_NAME = 24

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
        rows: in each the keys `COLUMNS`, see `compress.compare`; those of one setting together, its baseline first.
        settings: number, as in the rows, to what the runs with this number share.
        notes: what a reader of the rows must know, a line each.
        stages: whether there is a row for each stage.
    """

    rows: tuple[Row, ...]
    settings: dict[int, Setting]
    notes: tuple[str, ...]
    stages: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `--format json` prints it."""
        return {"rows": list(self.rows), "notes": list(self.notes)}


def compare_runs(runs: Runs, *, stages: bool = False) -> Comparison:
    """What `compress.compare` gives, without pandas.

    Raises:
        UserError: see `compress.compare`.
    """
    results = read_results(runs)
    passes = dict(zip([result.name for result in results], _passes(results), strict=True))
    by_setting: dict[Setting, list[Result]] = {}
    for result in results:
        by_setting.setdefault(setting_of(result), []).append(result)
    rows: list[Row] = []
    notes: list[str] = []
    for number, (setting, members) in enumerate(by_setting.items(), 1):
        shared = {"setting": number, **{key: getattr(setting, key) for key in ("model", "data", "eval_samples", "machine")}}
        first = [_stage_figures(result, 0) if stages else _end_figures(result, 0) for result in members]
        rows.append(_row(BASELINE, BASELINE, first, "", members, shared))
        for group in _of_one_recipe(members):
            name, done = _together(group), passes[group[0].name]
            notes += _group_notes(group, done)
            names = [stage["name"] for stage in group[0].report["stages"]]
            for position in range(1, len(names)) if stages else [len(names) - 1]:
                figures = [_stage_figures(result, position) if stages else _end_figures(result, 1) for result in group]
                rows.append(_row(name, names[position], figures, done, group, shared))
    settings = dict(enumerate(by_setting, 1))
    return Comparison(tuple(rows), settings, (*notes, *_setting_notes(settings)), stages)


def _end_figures(result: Result, position: int) -> dict[str, float | None]:
    """Of the first file (0) or the last (1), as they were timed side by side at the end of the run."""
    stages, timed = result.report["stages"], result.report["benchmarks"][position]
    seconds = sum(stage["seconds"] for stage in stages) if position else 0.0
    figures = _stage_figures(result, -1 if position else 0)
    latency = {f"latency_ms_{name}": timed["latency_ms"][name] for name in ("p50", "p90")}
    return {**figures, **latency, "speedup": timed["speedup"], "seconds": seconds}


def _stage_figures(result: Result, position: int) -> dict[str, float | None]:
    """Of one stage, as they were measured right after it; ratios are to the baseline of the same run."""
    first, stage = result.report["stages"][0], result.report["stages"][position]
    accuracy, before = stage["accuracy"], first["accuracy"]
    return {
        "accuracy_percent": None if accuracy is None else 100 * accuracy,
        "drop_points": None if accuracy is None or before is None else 100 * (before - accuracy),
        "latency_ms_p50": stage["latency_ms"]["p50"],
        "latency_ms_p90": stage["latency_ms"]["p90"],
        "size_mb": stage["size_bytes"] / 1e6,
        "speedup": first["latency_ms"]["p50"] / stage["latency_ms"]["p50"],
        "size_ratio": first["size_bytes"] / stage["size_bytes"],
        "params_m": stage["params"] / 1e6,
        "nonzero_params_m": stage["nonzero_params"] / 1e6,
        "mmacs": stage["macs"] / 1e6,
        "seconds": stage["seconds"],
    }


def _row(
    run: str, stage: str, figures: Sequence[Mapping[str, float | None]], passes: str, group: Sequence[Result], shared: Row
) -> Row:
    """Means over the group, and the sample standard deviation of those in `SPREADS`; None where one of the group has none."""
    means, spreads = {}, {}
    for name in FIGURES:
        known = [value for each in figures if (value := each[name]) is not None]
        known = known if len(known) == len(group) else []
        means[name] = round(statistics.fmean(known), 6) if known else None
        if name in SPREADS:
            spreads[f"{name}_std"] = round(statistics.stdev(known), 6) if len(known) > 1 else None
    seeds = "" if run == BASELINE else ", ".join(str(result.report["seed"]) for result in group)
    row = {"run": run, "stage": stage, "n": len(group), **means, **spreads, "passes": passes, "seeds": seeds, **shared}
    return {name: row[name] for name in COLUMNS}


def _of_one_recipe(results: Sequence[Result]) -> list[list[Result]]:
    """Runs of one setting that differ in nothing but the seed, together."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        steps = [(stage["name"], stage["options"]) for stage in result.report["stages"]]
        key = json.dumps([steps, result.training], sort_keys=True, default=str)
        groups.setdefault(key, []).append(result)
    return list(groups.values())


def _together(group: Sequence[Result]) -> str:
    """One name for the runs of a row; the notes have all of them."""
    together = ", ".join(result.name for result in group)
    return together if len(together) <= LONGEST_NAME or len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"


def _group_notes(group: Sequence[Result], done: str) -> list[str]:
    """Which runs they are, what they did, with which seeds."""
    seeds = [result.report["seed"] for result in group]
    names, numbers = ", ".join(result.name for result in group), ", ".join(map(str, seeds))
    notes = [f"{names}: {done}; seed{'s' if len(seeds) > 1 else ''} {numbers}"]
    if len(set(seeds)) < len(seeds):
        notes.append(f"{_together(group)}: seeds are there more than once, so the spread is not that between seeds")
    return notes


def _passes(results: Sequence[Result]) -> list[str]:
    """The passes of each run in order, with those options that are not the same wherever the pass is used."""
    values: dict[tuple[str, str], set[str]] = {}
    for result in results:
        for stage in result.report["stages"]:
            for option, value in stage["options"].items():
                values.setdefault((stage["name"], option), set()).add(json.dumps(value, sort_keys=True, default=str))
    several = len({result.training for result in results}) > 1
    return [_passes_text(result, values) + (f", {result.training}" if several else "") for result in results]


def _passes_text(result: Result, values: Mapping[tuple[str, str], set[str]]) -> str:
    steps = []
    for stage in result.report["stages"][1:]:
        name = stage["name"]
        options = [f"{option}={value}" for option, value in stage["options"].items() if len(values[name, option]) > 1]
        steps.append(f"{name}({', '.join(options)})" if options else name)
    return " > ".join(steps)


def _setting_notes(settings: Mapping[int, Setting]) -> list[str]:
    """What the first setting is, and what sets the others apart from it."""
    first = settings[1]
    if len(settings) == 1:
        return [str(first)]
    notes = [f"setting 1: {first}"]
    for number, setting in settings.items():
        if number > 1:
            notes.append(f"setting {number} differs from setting 1 in {setting.against(first)}")
    return [*notes, "each setting has its own baseline, and ratios are to that one"]
