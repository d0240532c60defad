"""Files that flags name: plans of ratios, and rows as they are measured."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import yaml

from compress.errors import UserError
from compress.files import write_atomically
from compress.passes.prune_channels import PruneChannels
from compress.planning import PruningPlan, parse_plan
from compress.sensitivity import Effect, Sensitivity


def check_folder(path: str | None) -> None:
    """Before anything is measured: whether a file could be written there."""
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {Path(path).parent}")


def read_plan(path: str) -> dict[str, float]:
    """The ratios in a plan file, such as `compress sensitivity --save` and `compress plan --save` write."""
    try:
        return parse_plan(Path(path).read_text(encoding="utf8"))
    except OSError as error:
        raise UserError(f"the plan {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the plan {path} is not a text file") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def write_suggestion(path: Path, found: Sensitivity) -> None:
    """The suggested ratios as a plan, with what they are."""
    what = f"Largest ratio of each group whose drop alone is at most {100 * found.within:g} points, on {found.selected_on} data."
    _write_plan(path, what, found.suggested)


def write_plan(path: Path, found: PruningPlan, pruning: PruneChannels) -> None:
    """The ratio of each group that is cut as a plan, and the options with which it cuts the same again."""
    if not found.ratios:
        raise UserError("nothing is cut, so there is no plan to save")
    options = {"round_to": pruning.round_to, "criterion": pruning.criterion, "importance": pruning.importance}
    defaults = PruneChannels()
    others = [f" --pass prune_channels:{name}={value}" for name, value in options.items() if value != getattr(defaults, name)]
    if pruning.exclude:
        others.append(f" --pass prune_channels:exclude={','.join(pruning.exclude)}")
    _write_plan(path, f"Repeat it with --prune-plan {path}{''.join(others)}", found.ratios)


def _write_plan(path: Path, what: str, ratios: dict[str, float]) -> None:
    try:
        write_atomically(path, f"# {what}\n{yaml.safe_dump(ratios, sort_keys=False)}".encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def rows_writer(path: str | None) -> Callable[[Effect], None]:
    """What writes each effect as a line of JSON at once, so that an interruption loses none; without a path, nothing."""
    if path is None:
        return lambda effect: None
    file = Path(path)
    try:
        file.write_text("", encoding="utf8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None

    def write(effect: Effect) -> None:
        with file.open("a", encoding="utf8") as lines:
            lines.write(json.dumps(asdict(effect)) + "\n")

    return write
