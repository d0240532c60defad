"""`compress plan` and `compress sensitivity`: what pruning would do, and what it would cost, before it is done."""

from pathlib import Path
from typing import Any

import click

from cli.options import PATH, pruning_flags


@click.command("plan")
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
    from cli import files, flags, show
    from compress import zoo
    from compress.planning import plan

    step = flags.to_pruning(**given)
    with show.screen(quiet=False, as_json=as_json) as screen:
        source = zoo.load(model, weights)
        pruning = flags.make_pruning(step, source)
        found = plan(source.model, zoo.load_task(source, data, limit_train, optional=True), pruning, seed=seed or 0)
        screen.plan(found)
        if save is not None:
            files.write_plan(Path(save), found, pruning)
            screen.note(f"the ratios are in {save}; --prune-plan {save} cuts the same again")


@click.command("sensitivity")
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
    from cli import files, flags, show
    from compress import plots, zoo
    from compress.sensitivity import sensitivity

    shares = flags.to_ratios(ratios)
    if plot is not None:
        plots.check_format(Path(plot))
    for path in (save, plot):
        files.check_folder(path)
    step = flags.to_pruning(prune=0.5, prune_target=None, prune_plan=None, extra=extra)
    on_effect = files.rows_writer(save_rows)
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
            files.write_suggestion(Path(save), found)
            screen.note(f"the suggested ratios are in {save}; use them with --prune-plan {save}")
        if plot is not None:
            plots.save(plots.sensitivity(found), Path(plot))
            screen.note(f"the picture is in {plot}")
