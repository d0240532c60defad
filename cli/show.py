"""What a person sees: rows as they come, the table, progress bars on a terminal, JSON on request."""

import inspect
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from compress.artifact import Record, record_to_dict
from compress.docstrings import summary
from compress.planning import PruningPlan
from compress.progress import watch
from compress.recipe import default_text
from compress.report.markdown import BENCHMARK_COLUMNS, benchmark_row
from compress.report.text import COLUMNS, float_layers, headline, row, stage_table, verdicts
from compress.sensitivity import Sensitivity

# A bar for less than this would only flicker.
SECONDS_BEFORE_BAR = 1.0


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160
    return console


class Screen:
    """Where the commands put their results; `quiet` and `as_json` decide what of it is shown."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self.quiet, self.as_json = quiet, as_json
        self.console = _console()
        self.rows: list[tuple[str, ...]] = []

    @property
    def talks(self) -> bool:
        return not self.quiet and not self.as_json

    def stage(self, record: Record) -> None:
        """A row of the table, as soon as its stage is done."""
        if not self.talks:
            return
        if not self.rows:
            self.console.print(_columns(COLUMNS), style="bold")
        cells = row(record_to_dict(record))
        self.rows.append(cells)
        self.console.print(_columns(cells))

    def note(self, text: str) -> None:
        if self.talks:
            self.console.print(f"note: {text}", markup=False)

    def result(self, report: dict[str, Any], folder: Path) -> None:
        """The final table and three lines: gained, lost, where."""
        if self.quiet:
            return
        if self.as_json:
            print_json(report)
            return
        self.console.print()
        self.console.print(make_table(*stage_table(report)))
        for line in [*verdicts(report), *float_layers(report)]:
            self.console.print(line, markup=False)
        for line in headline(report):
            self.console.print(line, markup=False)
        half = "model-fp16.onnx, " if report["fp16"] else ""
        self.console.print(f"files: {folder}/ (model.onnx, baseline.onnx, {half}report.html)", markup=False)

    def plan(self, plan: PruningPlan) -> None:
        """Groups, then widths and costs."""
        if self.as_json:
            print_json(plan.to_dict())
            return
        self._table_and_lines(*plan.cells(), plan.lines())

    def sensitivity(self, found: Sensitivity) -> None:
        """One line per change, with a bar for the drop."""
        if self.as_json:
            print_json(found.to_dict())
            return
        self._table_and_lines(*found.cells(), found.lines())

    def _table_and_lines(self, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], lines: Sequence[str]) -> None:
        table = make_table(header, rows)
        table.columns[-1].justify = "left"
        self.console.print(table)
        for line in lines:
            self.console.print(line, markup=False)

    def bench(self, result: dict[str, Any]) -> None:
        if self.as_json:
            print_json(result)
            return
        self.console.print(make_table((*BENCHMARK_COLUMNS, "size MB"), [_bench_row(entry) for entry in result["rows"]]))

    def evaluation(self, result: dict[str, Any]) -> None:
        if self.as_json:
            print_json(result)
            return
        accuracy = f"{100 * result['accuracy']:.2f} %"
        self.console.print(f"{result['file']}: {accuracy} on {result['eval_samples']} samples of {result['data']}", markup=False)


@contextmanager
def screen(*, quiet: bool, as_json: bool) -> Iterator[Screen]:
    """A screen with progress bars on standard error, where that is a terminal and not `quiet`."""
    console = _console(stderr=True)
    if quiet or not console.is_terminal:
        yield Screen(quiet, as_json)
        return
    counts, note = TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeRemainingColumn(), note)
    with Progress(*columns, console=console, transient=True) as progress:
        bar = _Bar(progress)
        with watch(bar.update):
            yield Screen(quiet, as_json)


class _Bar:
    """One bar at a time, for whatever reports last; the loops of this package do not nest visibly."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.what, self.since, self.last = "", 0.0, 0
        self.task: TaskID | None = None

    def update(self, what: str, done: int, total: int | None, note: str) -> None:
        if what != self.what or done < self.last:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.what, self.since, self.task = what, time.monotonic(), None
        self.last = done
        if self.task is None:
            if time.monotonic() - self.since < SECONDS_BEFORE_BAR:
                return
            self.task = self.progress.add_task(what, total=total, note="")
        if note:
            self.progress.update(self.task, note=note)
        self.progress.update(self.task, completed=done, total=total)
        if total is not None and done >= total:
            self.progress.remove_task(self.task)
            self.what, self.task = "", None


def _columns(cells: tuple[str, ...]) -> str:
    return cells[0].ljust(16) + "".join(cell.rjust(12) for cell in cells[1:])


def make_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    return table


def _bench_row(entry: dict[str, Any]) -> tuple[str, ...]:
    size = "-" if entry["size_bytes"] is None else f"{entry['size_bytes'] / 1e6:.2f}"
    return (*benchmark_row(entry), size)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def zoo_table(entries: dict[str, dict[str, Any]]) -> None:
    """Names, data and expected accuracy."""
    rows = []
    for name, entry in entries.items():
        accuracy = ", ".join(f"{data} {100 * value:.2f} %" for data, value in entry.get("accuracy", {}).items())
        weights = "in the package" if "weights" in entry else f"hub: {entry['hub']}" if "hub" in entry else "--weights FILE"
        rows.append((name, weights, entry.get("data", "--data DATA"), accuracy or "-"))
    _console().print(make_table(("model", "weights", "data", "accuracy"), rows))


def pass_table(classes: list[type[Any]]) -> None:
    """Names and first sentences."""
    rows = [(kind.name, kind.stage, summary(kind)) for kind in classes]
    table = make_table(("pass", "stage", "what it does"), rows)
    table.columns[2].justify, table.columns[1].justify, table.columns[2].no_wrap = "left", "left", False
    _console().print(table)


def pass_details(kind: type[Any]) -> None:
    """The docstring, then each option with its default."""
    console = _console()
    console.print(f"{kind.name} ({kind.stage}; needs {', '.join(kind.needs) or 'no data'})", style="bold", markup=False)
    console.print(inspect.getdoc(kind) or "", markup=False)
    console.print("\nDefaults:", style="bold")
    for field in fields(kind):
        if field.init:
            console.print(f"  --pass {kind.name}:{field.name}={default_text(field)}", markup=False)
