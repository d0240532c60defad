"""What a run wrote, looked at again: `compress bench`, `eval`, `inspect`, `compare` and `report`."""

import contextlib
import sys
from pathlib import Path

import click

from cli.options import PATH

RUNTIME_NAMES = "ort-cpu, ort-cuda, openvino, torch-cpu, torch-cuda"


@click.command()
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="FILE.onnx|DIR ...")
@click.option("--runtime", default="ort-cpu", show_default=True, metavar="NAME", help=f"One of {RUNTIME_NAMES}.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Samples per call.")
@click.option("--input-size", metavar="HxW", help="Height and width in pixels, for files that leave them open.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Threads of the runtime.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def bench(
    files: tuple[str, ...], runtime: str, batch: int, input_size: str | None, threads: int, as_json: bool, debug: bool
) -> None:
    """Time ONNX files side by side, interleaved in one process, on random inputs.

    A folder of a run stands for its baseline.onnx and its model.onnx. Ratios are to the first file.
    """
    from cli import show
    from compress.bench import bench as measure

    size = parse_size(input_size) if input_size else None
    with show.screen(quiet=False, as_json=as_json) as screen:
        result = measure([Path(f) for f in files], runtime=runtime, batch=batch, input_size=size, threads=threads)
        screen.bench(result)


def parse_size(text: str) -> tuple[int, int]:
    """`224` or `224x160` (also with a comma) as height and width."""
    parts = text.replace(",", "x").lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.UsageError(f"--input-size takes HxW in pixels, such as 224x224, got '{text}'")
    return int(parts[0]), int(parts[-1])


@click.command("eval")
@click.argument("path", type=PATH, metavar="FILE.onnx|DIR")
@click.option("--data", required=True, type=PATH, metavar="DATA", help="Data set, as for compress run.")
@click.option("--model", metavar="MODEL", help="For a file without a manifest: a MODEL with the same preprocessing.")
@click.option("--limit-eval", type=click.IntRange(1), metavar="N", help="Use only N test samples.")
@click.option("--runtime", default="ort-cpu", show_default=True, metavar="NAME", help="ort-cpu, ort-cuda or openvino.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of the runtime (default: all cores).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def evaluate(
    path: str, data: str, model: str | None, limit_eval: int | None, runtime: str, threads: int | None, as_json: bool, debug: bool
) -> None:
    """Accuracy of an ONNX file, or of the model in a run's folder, on a data set."""
    from cli import show
    from compress.evaluate import evaluate_file

    with show.screen(quiet=False, as_json=as_json) as screen:
        result = evaluate_file(Path(path), data, model=model, limit_eval=limit_eval, runtime=runtime, threads=threads)
        screen.evaluation(result)


@click.command("inspect")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--order", type=click.Choice(["network", "worst"]), default="network", show_default=True, help="Of the rows.")
@click.option("--plot", type=PATH, metavar="FILE", help="Draw it, into a .png, .svg or .pdf file.")
@click.option(
    "--data", type=PATH, metavar="DATA", help="Data set to calibrate on, as for compress run (default: that of the run)."
)
@click.option("--limit-train", type=click.IntRange(1), metavar="N", help="Use only N training samples.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def inspect_(
    folder: str, order: str, plot: str | None, data: str | None, limit_train: int | None, as_json: bool, debug: bool
) -> None:
    """Say where the int8 model in a run's folder loses accuracy: bits, range and error of each layer.

    Errors are against the same network without rounding; what pruning cost before is not counted.
    """
    from cli import files, show, show_layers
    from compress import plots
    from compress.inspection import folder_task, inspect

    if plot is not None:
        plots.check_format(Path(plot))
        files.check_folder(plot)
    with show.screen(quiet=False, as_json=as_json) as screen:
        # What the user's own code prints must not get between the lines of the JSON.
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            task = None if data is None and limit_train is None else folder_task(Path(folder), data, limit_train)
            found = inspect(Path(folder), task)
        show_layers.inspection(screen, found, found.worst_first() if order == "worst" else found.layers)
        if plot is not None:
            plots.save(plots.layer_errors(found.layers), Path(plot))
            screen.note(f"the picture is in {plot}")


@click.command("compare")
@click.argument("folders", type=PATH, nargs=-1, required=True, metavar="DIR ...")
@click.option("--stages", is_flag=True, help="A row for each stage, not only for the last.")
@click.option(
    "--format", "form", type=click.Choice(["table", "md", "csv", "html", "latex", "json"]), default="table", show_default=True
)
@click.option("--plot", type=PATH, metavar="FILE", help="Draw accuracy against latency, into a .png, .svg or .pdf file.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def compare_(folders: tuple[str, ...], stages: bool, form: str, plot: str | None, debug: bool) -> None:
    """Put the runs in these folders side by side: accuracy, latency and size, after the network that they started from.

    Runs of one recipe with several seeds become one row. Runs of other models, data or machines are numbered as other settings.
    """
    from cli import files, show, show_compare
    from compress import plots
    from compress.comparison import compare_runs

    if plot is not None:
        plots.check_format(Path(plot))
        files.check_folder(plot)
    found = compare_runs(folders, stages=stages)
    screen = show.Screen(quiet=False, as_json=form != "table")
    show_compare.comparison(screen, found, form)
    if plot is not None:
        plots.save(plots.pareto(found.rows), Path(plot))
        screen.note(f"the picture is in {plot}")


@click.command("report")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def report_(folder: str, debug: bool) -> None:
    """Write report.html in a run's folder again, from its report.json: for runs of older versions, or after an edit."""
    from compress.finished import rewrite_html

    click.echo(f"the report is in {rewrite_html(Path(folder))}")
