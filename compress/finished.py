"""Runs that have ended: their reports, read again from their folders."""

from pathlib import Path
from typing import Any

from compress.errors import UserError
from compress.files import write_atomically
from compress.folder import HTML, RECIPE, REPORT, STAGES, RunFolder
from compress.report import SCHEMA_VERSION, to_html
from compress.report.json_text import dumps
from compress.store import read_manifest

# What is read of every report; what else a report of this version lacks does not matter.
NEEDED = ("model", "input_shape", "data", "seed", "environment", "stages", "summary", "benchmarks")


def read_report(folder: Path) -> dict[str, Any]:
    """The report in a run's folder.

    Raises:
        UserError: there is no such folder, no finished run in it, or a report of another version.
    """
    if not folder.exists():
        raise UserError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; give the folder of a run")
    if not (folder / REPORT).exists():
        if (folder / STAGES).is_dir() or (folder / RECIPE).is_file():
            raise UserError(f"{folder}: the run there has not finished; continue it with --resume --out {folder}")
        inside = sorted(path.parent for path in folder.glob(f"*/{REPORT}"))
        raise UserError(f"{folder} holds no run" + (f"; give the runs inside it, such as {inside[0]}" if inside else ""))
    report = RunFolder(folder).report()
    version = report.get("version") if isinstance(report, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{folder / REPORT} is not a report of this package: it has no version")
    if version != SCHEMA_VERSION:
        way_out = "upgrade compress-toolkit" if version > SCHEMA_VERSION else "repeat the run with --force"
        raise UserError(f"{folder / REPORT} has version {version}, this package reads {SCHEMA_VERSION}; {way_out}")
    lacking = [key for key in NEEDED if key not in report]
    if lacking:
        raise UserError(f"{folder / REPORT} is not a report of this package: it has no {lacking[0]}")
    return report


def rewrite_html(folder: Path) -> Path:
    """Write `report.html` again from `report.json` and `recipe.yaml`, and give its path.

    Raises:
        UserError: see `read_report`; something in the report cannot be shown; or the file cannot be written.
    """
    report = read_report(folder)
    try:
        by_name = read_manifest(folder).get("origin", {}).get("kind") != "module"
    except UserError:  # the report may stand alone, such as in an archive without weights
        by_name = True
    try:
        dumps(report)  # NaN would be shown as a word
        page = to_html(report, RunFolder(folder).recipe_text(), by_name)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:  # somebody edited it
        what = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{folder / REPORT} cannot be shown: {what}") from None
    write_atomically(folder / HTML, page.encode())
    return folder / HTML
