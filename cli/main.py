"""The commands. Torch is imported after the arguments are parsed, so that `compress --help` answers at once."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cli.recipes import recipes

RUNTIME_NAMES = "ort-cpu, ort-cuda, openvino, torch-cpu, torch-cuda"
# Checked by nobody here: it says to the shell what to complete.
PATH = click.Path(readable=False)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from cli.doctor import version_lines

        click.echo("\n".join(version_lines()))
        context.exit()


@click.group(context_settings=CONTEXT)
@click.option(
    "--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the versions that matter."
)
def cli() -> None:
    """Compress PyTorch models: prune, recover, quantize, export to ONNX, and measure what was written.

    Start with: compress run resnet18 --prune 0.5 --int8
    """


def pruning_flags(command: Any) -> Any:
    """The flags that say what structural pruning takes, the same in every command that has them."""
    for flag in reversed(
        [
            click.option("--prune", type=float, metavar="RATIO", help="Remove this share of the channels, in (0, 1)."),
            click.option("--prune-target", metavar="COST=VALUE", help="Prune to macs=0.5, params=0.5, size=5MB, latency=3ms."),
            click.option("--prune-plan", type=PATH, metavar="FILE", help="Prune by a YAML file: layer pattern to ratio."),
        ]
    ):
        command = flag(command)
    return command


@cli.command()
@click.argument("model", type=PATH, required=False)
@pruning_flags
@click.option("--prune-steps", type=click.IntRange(1), metavar="N", help="Prune in N steps with recovery between them.")
@click.option("--int8", is_flag=True, help="Quantize weights and activations to 8-bit integers.")
@click.option("--qat", type=int, metavar="EPOCHS", help="Quantize, and train with the rounding for these epochs.")
@click.option(
    "--max-drop", type=click.FloatRange(0, 100), metavar="POINTS", help="Leave layers in float until --int8 costs no more."
)
@click.option("--time-budget", metavar="TIME", help="Time for that search: seconds, or 10m, or 1h.")
@click.option("--finetune", type=int, metavar="EPOCHS", help="Epochs of recovery (default: the model's own).")
@click.option("--no-finetune", is_flag=True, help="Do not train after pruning.")
@click.option("--distill", metavar="TEACHER", help="Recover towards this MODEL's outputs, or those of `original`.")
@click.option("--distill-loss", metavar="LOSS[=WEIGHT],...", help="What of the teacher counts (compress passes show distill).")
@click.option("--teacher-weights", type=PATH, metavar="FILE", help="Weights of the teacher: safetensors, or a state dict.")
@click.option("--control", is_flag=True, help="Also train without the teacher, and show it beside.")
@click.option("--retry", is_flag=True, help="Train once again at a tenth of the rate where the loss diverges.")
@click.option("--pass", "extra", multiple=True, metavar="NAME:key=value", help="Add a pass, or set an option of one; repeatable.")
@click.option("--weights", type=PATH, metavar="FILE", help="Weights to start from: safetensors, or a state dict.")
@click.option(
    "--data", type=PATH, metavar="DATA", help="Data set: a name, imagefolder:DIR, npz:FILE, jsonl:FILE, or FILE.py:FUNCTION."
)
@click.option(
    "--recipe", type=PATH, metavar="FILE|NAME", help="Take model, data and passes from a YAML file, or from a recipe by name."
)
@click.option("--out", type=PATH, metavar="DIR", help="Folder of the run (default: runs/MODEL-TIMESTAMP).")
@click.option("--force", is_flag=True, help="Replace a run that is in the folder.")
@click.option("--resume", is_flag=True, help="Continue the run in --out where it was interrupted.")
@click.option("--seed", type=click.IntRange(0), help="Seed of every random choice (default: 0).")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where passes train.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Processes that train.")
@click.option("--ray", metavar="ADDRESS", help="Train on the machines of a Ray cluster: HOST:PORT, auto, or local.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Threads of a timed runtime.")
@click.option("--limit-train", type=click.IntRange(1), metavar="N", help="Use only N training samples.")
@click.option("--limit-eval", type=click.IntRange(1), metavar="N", help="Use only N test samples.")
@click.option("--fp16", is_flag=True, help="Also write and check a half-precision file.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def run(
    out: str | None,
    force: bool,
    resume: bool,
    device: str,
    processes: int,
    ray: str | None,
    threads: int,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **given: Any,
) -> None:
    """Compress MODEL and measure the result.

    MODEL is a name of the zoo (compress zoo list), hf:ID_OR_FOLDER, torchvision:NAME, timm:NAME, or path/file.py:function
    (your own code, which is executed) returning a module or (module, Task).
    """
    from cli import flags, show
    from compress.launch import run_on_processes
    from compress.launch_ray import run_on_ray
    from compress.run import Options

    if resume and out is None:
        raise click.UsageError("--resume needs --out DIR: the folder of the run to continue")
    recipe = flags.to_recipe(**given)
    folder = Path(out) if out else default_folder(recipe.model)
    with _launched(debug) as leads, show.screen(quiet=quiet or not leads, as_json=as_json and leads) as screen:
        options = Options(
            out=folder, device=device, threads=threads, force=force, resume=resume, on_stage=screen.stage, on_note=screen.note
        )
        # What the user's own code prints must not get between the lines of the JSON.
        with contextlib.redirect_stdout(sys.stderr) if as_json or quiet else contextlib.nullcontext():
            if ray is not None:
                result = run_on_ray(recipe, options, processes, ray)
            else:
                result = run_on_processes(recipe, options, processes)
        screen.result(result.report, folder)


@contextlib.contextmanager
def _launched(debug: bool) -> Iterator[bool]:
    """Whether a person sees this process: of several that torchrun started rank 0, which also says what failed."""
    from compress import workers

    leads = True
    try:
        with workers.joined_as_launched() if workers.launched() else contextlib.nullcontext():
            leads = workers.first()
            yield leads
    except Exception:
        if leads or debug:
            raise
        raise SystemExit(1) from None


@cli.command("plan")
@click.argument("model", type=PATH)
@pruning_flags
@click.option("--pass", "extra", multiple=True, metavar="NAME:key=value", help="Set an option of prune_channels; repeatable.")
@click.option("--weights", type=PATH, metavar="FILE", help="Weights to start from: safetensors, or a state dict.")
@click.option("--data", type=PATH, metavar="DATA", help="Data set, where the criterion measures on data.")
@click.option("--limit-train", type=click.IntRange(1), metavar="N", help="Use only N training samples.")
@click.option("--seed", type=click.IntRange(0), help="Seed of every random choice (default: 0).")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Threads of a timed runtime.")
@click.option(
    "--save", type=PATH, metavar="FILE", help="Write the ratio of each group as a plan for --prune-plan, which repeats it."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def plan_(
    model: str,
    weights: str | None,
    data: str | None,
    limit_train: int | None,
    seed: int | None,
    save: str | None,
    as_json: bool,
    debug: bool,
    **given: Any,
) -> None:
    """Say what pruning MODEL would do: groups, widths, costs, what is protected and why. Touches nothing."""
    from cli import flags, show
    from compress import zoo
    from compress.planning import plan

    step = flags.to_pruning(**given)
    with show.screen(quiet=False, as_json=as_json) as screen:
        source = zoo.load(model, weights)
        pruning = flags.make_pruning(step, source)
        found = plan(source.model, zoo.load_task(source, data, limit_train, optional=True), pruning, seed=seed or 0)
        screen.plan(found)
        if save is not None:
            flags.write_plan(Path(save), found, pruning)
            screen.note(f"the ratios are in {save}; --prune-plan {save} cuts the same again")


@cli.command("sensitivity")
@click.argument("model", type=PATH)
@click.option("--ratios", default="0.25,0.5,0.75", show_default=True, metavar="R,R,...", help="Shares of one group to remove.")
@click.option("--int8", is_flag=True, help="Also quantize one layer at a time.")
@click.option(
    "--within",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="Drop that a suggested ratio may cost.",
)
@click.option("--save", type=PATH, metavar="FILE", help="Write the suggested ratios as a plan for --prune-plan.")
@click.option("--save-rows", type=PATH, metavar="FILE", help="Write each row as a line of JSON as soon as it is measured.")
@click.option("--plot", type=PATH, metavar="FILE", help="Draw it, into a .png, .svg or .pdf file.")
@click.option("--pass", "extra", multiple=True, metavar="NAME:key=value", help="Set an option of prune_channels; repeatable.")
@click.option("--weights", type=PATH, metavar="FILE", help="Weights to start from: safetensors, or a state dict.")
@click.option("--data", type=PATH, metavar="DATA", help="Data set, as for compress run.")
@click.option("--limit-train", type=click.IntRange(1), metavar="N", help="Use only N training samples.")
@click.option("--limit-eval", type=click.IntRange(1), metavar="N", help="Use only N test samples.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Threads of the timed runtime."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def sensitivity_(
    model: str,
    ratios: str,
    int8: bool,
    within: float,
    save: str | None,
    save_rows: str | None,
    plot: str | None,
    extra: tuple[str, ...],
    weights: str | None,
    data: str | None,
    limit_train: int | None,
    limit_eval: int | None,
    threads: int,
    as_json: bool,
    debug: bool,
) -> None:
    """Prune one group of MODEL at a time and measure: which layers can be cut, and what it brings."""
    from cli import flags, show
    from compress import plots, zoo
    from compress.sensitivity import sensitivity

    shares = flags.to_ratios(ratios)
    if plot is not None:
        plots.check_format(Path(plot))
    for path in (save, plot):
        flags.check_folder(path)
    step = flags.to_pruning(prune=0.5, prune_target=None, prune_plan=None, extra=extra)
    on_effect = flags.rows_writer(save_rows)
    with show.screen(quiet=False, as_json=as_json) as screen:
        source = zoo.load(model, weights)
        task = zoo.load_task(source, data, limit_train, limit_eval)
        found = sensitivity(
            source.model,
            task,
            flags.make_pruning(step, source),
            ratios=shares,
            int8=int8,
            within=within / 100,
            threads=threads,
            on_effect=on_effect,
        )
        screen.sensitivity(found)
        if save is not None:
            flags.write_suggestion(Path(save), found)
            screen.note(f"the suggested ratios are in {save}; use them with --prune-plan {save}")
        if plot is not None:
            plots.save(plots.sensitivity(found), Path(plot))
            screen.note(f"the picture is in {plot}")


def default_folder(model: str | None) -> Path:
    """`runs/MODEL-TIMESTAMP`, with what cannot be in a file name replaced, and a number where the name is taken."""
    import re
    import time

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model or "run").strip("-.")
    stem = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = Path(stem), 2
    while folder.exists():
        folder, number = Path(f"{stem}-{number}"), number + 1
    return folder


@cli.command()
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


@cli.command("eval")
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


@cli.command("inspect")
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
    from cli import flags, show, show_layers
    from compress import plots
    from compress.inspection import folder_task, inspect

    if plot is not None:
        plots.check_format(Path(plot))
        flags.check_folder(plot)
    with show.screen(quiet=False, as_json=as_json) as screen:
        # What the user's own code prints must not get between the lines of the JSON.
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            task = None if data is None and limit_train is None else folder_task(Path(folder), data, limit_train)
            found = inspect(Path(folder), task)
        show_layers.inspection(screen, found, found.worst_first() if order == "worst" else found.layers)
        if plot is not None:
            plots.save(plots.layer_errors(found.layers), Path(plot))
            screen.note(f"the picture is in {plot}")


@cli.command("compare")
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
    from cli import flags, show, show_compare
    from compress import plots
    from compress.comparison import compare_runs

    if plot is not None:
        plots.check_format(Path(plot))
        flags.check_folder(plot)
    found = compare_runs(folders, stages=stages)
    screen = show.Screen(quiet=False, as_json=form != "table")
    show_compare.comparison(screen, found, form)
    if plot is not None:
        plots.save(plots.pareto(found.rows), Path(plot))
        screen.note(f"the picture is in {plot}")


@cli.command("report")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def report_(folder: str, debug: bool) -> None:
    """Write report.html in a run's folder again, from its report.json: for runs of older versions, or after an edit."""
    from compress.finished import rewrite_html

    click.echo(f"the report is in {rewrite_html(Path(folder))}")


@cli.group()
def zoo() -> None:
    """The models that can be named."""


@zoo.command("list")
def zoo_list() -> None:
    """All names, with their data and accuracy."""
    from cli import show
    from compress.sources.zoo_file import entries

    show.zoo_table(entries())


@zoo.command("show")
@click.argument("name")
def zoo_show(name: str) -> None:
    """One entry in full."""
    import yaml

    from compress.errors import UserError, did_you_mean
    from compress.sources.zoo_file import entries

    if name not in entries():
        raise UserError(f"unknown model '{name}'." + did_you_mean(name, list(entries())))
    click.echo(yaml.safe_dump({name: entries()[name]}, sort_keys=False), nl=False)


@cli.group()
def passes() -> None:
    """The passes that can be asked for."""


@passes.command("list")
def passes_list() -> None:
    """All names, with what they do."""
    from cli import show
    from compress.passes import find, names

    show.pass_table([find(name) for name in names()])


@passes.command("show")
@click.argument("name")
def passes_show(name: str) -> None:
    """Options, defaults and source of one pass."""
    from cli import show
    from compress.passes import find

    show.pass_details(find(name))


cli.add_command(recipes)


@cli.command("doctor")
@click.pass_context
def doctor_(context: click.Context) -> None:
    """Say what is installed here and works, and the line that installs what is missing."""
    from cli.doctor import doctor

    context.exit(0 if doctor() else 1)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 what was asked for cannot work, 1 our fault, 130 interrupted."""
    sys.exit(_exit_code(sys.argv[1:] if arguments is None else arguments))


def _exit_code(arguments: list[str]) -> int:
    import logging
    import warnings

    # Libraries warn of what their own next version changes; nothing of it is the user's to act on.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    debug = "--debug" in arguments
    try:
        return cli.main(arguments, prog_name="compress", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _say(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted; what was finished is kept, and --resume with the same options and --out continues it", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, is gone
        sys.stderr.close()
        return 1
    except Exception as error:  # the last line of defence: one message, no traceback
        if debug:
            raise
        from compress.errors import CompressError

        if isinstance(error, CompressError):
            return _say(str(error), error.exit_code)
        if isinstance(error, OSError) and error.filename is not None:
            return _say(f"{error.filename}: {error.strerror}", 2)
        first = (str(error).strip().splitlines() or [""])[0]
        return _say(f"internal error, please report it: {type(error).__name__}: {first} (--debug shows where)", 1)


def _say(message: str, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return code
