"""What a comparison reads of each run: its report, and of its recipe what the report does not hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compress.errors import UserError
from compress.finished import read_report
from compress.folder import RECIPE
from compress.run import Run

Runs = Sequence[Run | Path | str] | Mapping[str, Run | Path | str]


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        name: what the run is called in the table.
        report: as `compress/report/schema.json` describes it.
        weights: of the recipe; None where it names none, or the run has no folder.
        training: how many training samples the recipe allowed, in words.
    """

    name: str
    report: dict[str, Any]
    weights: str | None = None
    training: str = "unknown training samples"


def read_results(runs: Runs) -> list[Result]:
    """The runs in the order given. A folder is called by its name, or as it was given where two have one name.

    Args:
        runs: folders of runs and what `compress.run` gave back; as a mapping, the keys are the names.

    Raises:
        UserError: none was given, one was given twice, or a folder holds no finished run that this version can read.
    """
    if isinstance(runs, str | Path | Run):
        runs = [runs]
    named = list(runs.items()) if isinstance(runs, Mapping) else list(zip(_names(runs), runs, strict=True))
    if not named:
        raise UserError("there are no runs to compare; give folders of runs")
    seen: set[Path] = set()
    for _, run in named:
        folder = run.folder if isinstance(run, Run) else Path(run)
        if folder is not None and folder.resolve() in seen:
            raise UserError(f"{folder} was given twice")
        if folder is not None:
            seen.add(folder.resolve())
    return [_result(str(name), run) for name, run in named]


def _names(runs: Sequence[Run | Path | str]) -> list[str]:
    folders = [run.folder if isinstance(run, Run) else Path(run) for run in runs]
    short = [None if folder is None else folder.resolve().name for folder in folders]
    names = []
    for position, (folder, name) in enumerate(zip(folders, short, strict=True), 1):
        if folder is None or name is None:
            names.append(f"run {position}")
        else:
            names.append(name if short.count(name) == 1 else str(folder))
    return names


def _result(name: str, run: Run | Path | str) -> Result:
    folder = run.folder if isinstance(run, Run) else Path(run)
    report = run.report if isinstance(run, Run) else read_report(Path(run))
    recipe = None if folder is None else _recipe(folder)
    if recipe is None:
        return Result(name, report)
    limit = recipe.get("limit_train")
    return Result(name, report, recipe.get("weights"), f"{'all' if limit is None else limit} training samples")


def _recipe(folder: Path) -> dict[str, Any] | None:
    """The recipe as plain data; None where the file is gone or is none, since a report stands for itself."""
    try:
        recipe = yaml.safe_load((folder / RECIPE).read_text(encoding="utf8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return recipe if isinstance(recipe, dict) else None
