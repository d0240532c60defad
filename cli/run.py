"""`compress run`: flags or a recipe to a folder with a report."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cli.options import PATH, pruning_flags


@click.command()
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
