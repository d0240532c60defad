"""Flags as a recipe: the same plain data that a YAML file holds."""

import re
from typing import Any

from cli.files import read_plan
from compress import budgets
from compress.distillation.terms import find as find_loss
from compress.errors import UserError
from compress.passes import ORDER, find
from compress.passes.prune_channels import PruneChannels
from compress.recipe import Recipe, Step, make_pass
from compress.recipe import read as read_recipe
from compress.sources.source import Source


def to_recipe(
    *,
    recipe: str | None,
    prune: float | None,
    prune_target: str | None = None,
    prune_plan: str | None = None,
    prune_steps: int | None = None,
    int8: bool,
    qat: int | None = None,
    max_drop: float | None = None,
    time_budget: str | None = None,
    finetune: int | None,
    no_finetune: bool,
    distill: str | None = None,
    distill_loss: str | None = None,
    teacher_weights: str | None = None,
    control: bool = False,
    retry: bool = False,
    extra: tuple[str, ...],
    **given: Any,
) -> Recipe:
    """The recipe that a command line asks for; `given` are its other keys, None where a flag was not used.

    Raises:
        UserError: flags that contradict each other, or an option that no pass has.
    """
    ways = {"--prune": prune, "--prune-target": prune_target, "--prune-plan": prune_plan}
    flags = {
        **ways,
        "--prune-steps": prune_steps,
        "--int8": int8,
        "--qat": qat,
        "--max-drop": max_drop,
        "--time-budget": time_budget,
        "--finetune": finetune,
        "--no-finetune": no_finetune,
        "--distill": distill,
        "--distill-loss": distill_loss,
        "--teacher-weights": teacher_weights,
        "--control": control,
        "--retry": retry,
        "--pass": extra,
    }
    used = [flag for flag, value in flags.items() if value is not None and value is not False and value != ()]
    if recipe is not None:
        if used:
            raise UserError(f"--recipe already says which passes run; {used[0]} cannot be added to it: edit the file instead")
        return read_recipe(recipe).overridden(**{key: value for key, value in given.items() if value is not False})
    if finetune is not None and no_finetune:
        raise UserError("--finetune and --no-finetune contradict each other")
    if int8 and qat is not None:
        raise UserError("--qat is int8 with training; leave --int8 out")
    steps: dict[str, dict[str, Any]] = {}
    implied: list[str] = []
    channels = _channels(ways)
    if channels is not None:
        steps["prune_channels"] = channels
        steps["reestimate_bn"] = {"allow_noop": True}  # not every network has batch norm
        implied.append("reestimate_bn")
        if finetune is None and not no_finetune:
            steps["finetune"] = {}
            implied.append("finetune")
    if finetune is not None:
        # Without pruning the original would teach itself.
        steps["finetune"] = {"epochs": finetune} if channels is not None else {"epochs": finetune, "distill": False}
    taught = {"--distill-loss": distill_loss, "--teacher-weights": teacher_weights, "--control": control or None}
    _distil(steps, implied, distill, {flag: value for flag, value in taught.items() if value is not None}, no_finetune)
    if int8:
        steps["int8"] = {}
    if qat is not None:
        steps["qat"] = {"epochs": qat}
    for text in extra:
        name, option, value = _parse(text)
        steps.setdefault(name, {})
        if option is not None:
            if option in steps[name]:
                raise UserError(f"{name}: {option} is given twice; a recipe can hold a pass more than once, flags cannot")
            steps[name][option] = value
    _bound(steps, max_drop, time_budget)
    if retry:
        training = [name for name in steps if name in ("finetune", "distill", "qat")]
        if not training:
            raise UserError("--retry needs something that trains: --finetune, --distill or --qat")
        for name in training:
            steps[name].setdefault("retry", True)
    ordered: list[Step] = sorted(steps.items(), key=lambda step: ORDER.index(find(step[0]).stage))
    if prune_steps is not None:
        ordered = _in_steps(ordered, prune_steps)
    values = {key: value for key, value in given.items() if value is not None}
    return Recipe(passes=tuple(ordered), implied=tuple(implied), **values)


def _distil(
    steps: dict[str, dict[str, Any]], implied: list[str], teacher: str | None, others: dict[str, Any], no_finetune: bool
) -> None:
    """Recover by `distill` instead of `finetune`, in place, where a teacher is named."""
    if teacher is None:
        if others:
            raise UserError(f"{next(iter(others))} needs --distill TEACHER; the run's own model is --distill original")
        return
    if no_finetune:
        raise UserError("--distill and --no-finetune contradict each other")
    options: dict[str, Any] = {"teacher": teacher, **steps.pop("finetune", {})}
    options.pop("distill", None)
    if "finetune" in implied:
        implied.remove("finetune")
    if "--distill-loss" in others:
        options["losses"] = to_losses(others["--distill-loss"])
    if "--teacher-weights" in others:
        options["teacher_weights"] = others["--teacher-weights"]
    if "--control" in others:
        options["control"] = True
    steps["distill"] = options


def to_losses(text: str) -> dict[str, float]:
    """`kd=0.9,ce=0.1` as it is said; a bare name is added, at its usual weight, to what every distillation needs.

    That is the labels for losses on logits, and labels and soft targets for losses on layers.

    Raises:
        UserError: a loss that is unknown, there twice or missing between commas, or a weight that is no number.
    """
    found: dict[str, float] = {}
    said: set[str] = set()
    usage = UserError(f"--distill-loss takes LOSS or LOSS=WEIGHT, such as kd=0.9,ce=0.1, got '{text}'")
    for part in text.split(","):
        name, equals, weight = (piece.strip() for piece in part.partition("="))
        if not name:
            raise usage
        term = find_loss(name)
        if name in said:
            raise UserError(f"--distill-loss has '{name}' twice, got '{text}'; leave one out")
        said.add(name)
        try:
            if equals:
                found[name] = float(weight)
                continue
        except ValueError:
            raise usage from None
        usual = {"ce": 0.1, "kd": 0.9} if name == "kd" or term.sees in ("features", "attention") else {"ce": 1.0}
        found = {**usual, **found, name: term.weight}
    return found


def _bound(steps: dict[str, dict[str, Any]], max_drop: float | None, time_budget: str | None) -> None:
    """Give `int8`, in place, the bound on what it may cost."""
    if time_budget is not None and max_drop is None:
        raise UserError("--time-budget needs --max-drop: it is the time to search for what keeps to that")
    if max_drop is not None:
        if "int8" not in steps:
            raise UserError("--max-drop needs --int8: it says how many points of the score integers may cost")
        if "max_drop" in steps["int8"]:
            raise UserError("int8: max_drop is given twice; leave out --max-drop or the option of --pass")
        steps["int8"] |= {"max_drop": max_drop}
    if time_budget is not None:
        steps["int8"] |= {"time_budget": to_seconds(time_budget)}


def to_seconds(text: str) -> float:
    """`90`, `90s`, `10m` or `1h` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or float(found[1]) == 0:
        raise UserError(f"--time-budget takes seconds, or minutes or hours such as 10m or 1h, got '{text}'")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _channels(ways: dict[str, Any]) -> dict[str, Any] | None:
    """Options of `prune_channels` from the one flag of the three that was used; None where none was."""
    used = [flag for flag, value in ways.items() if value is not None]
    if len(used) > 1:
        raise UserError(f"{used[0]} and {used[1]} contradict each other; give one of them")
    if ways["--prune"] is not None:
        return {"ratio": ways["--prune"]}
    if ways["--prune-target"] is not None:
        return {"target": ways["--prune-target"]}
    if ways["--prune-plan"] is not None:
        return {"ratio": 0.0, "ratios": read_plan(ways["--prune-plan"])}
    return None


def _in_steps(steps: list[Step], count: int) -> list[Step]:
    """Pruning and its recovery `count` times, each time a part of the way."""
    options = dict(steps).get("prune_channels")
    if options is None:
        raise UserError("--prune-steps needs --prune or --prune-target: it says in how many steps")
    if "ratios" in options:
        raise UserError("--prune-steps cannot cut by a plan; give --prune or --prune-target")
    parts = [dict(options) for _ in range(count)]
    if options.get("target") is not None:
        budget = budgets.parse(str(options["target"]), "--prune-target")
        if not budget.fraction:
            raise UserError(
                f"--prune-steps needs a target that is a fraction of the original, such as macs=0.5, got {options['target']}"
            )
        for number, part in enumerate(parts, 1):
            part["target"] = f"{budget.kind}={budget.value ** (number / count):.6g}"
    else:
        ratio = float(options["ratio"])
        for number, part in enumerate(parts if 0 < ratio < 1 else (), 1):  # anything else is refused by the pass
            part["ratio"] = round(1 - (1 - ratio) ** (number / count), 6)
            part["cumulative"] = True
    for part in parts[:-1]:
        part["allow_noop"] = True  # a step may round to none; the last must have removed something
    first = [step for step in steps if step[0] in ("prune_channels", "reestimate_bn", "finetune", "distill")]
    repeated = [(name, part if name == "prune_channels" else given) for part in parts for name, given in first]
    return repeated + [step for step in steps if step not in first]


def _parse(text: str) -> tuple[str, str | None, str | None]:
    """`NAME` or `NAME:key=value`."""
    name, colon, assignment = text.partition(":")
    key, equals, value = assignment.partition("=")
    if not name or (colon and not (key and equals)):
        raise UserError(f"--pass takes NAME or NAME:key=value, got '{text}'")
    return (name, key, value) if colon else (name, None, None)


def to_pruning(
    *,
    prune: float | None,
    prune_target: str | None,
    prune_plan: str | None,
    extra: tuple[str, ...],
    threads: int | None = None,
) -> Step:
    """The one pass of `compress plan` and `compress sensitivity`, checked, and with the options that were given.

    Args:
        threads: of the timed runtime, where the pass is not given its own.
    """
    recipe = to_recipe(
        recipe=None,
        prune=prune,
        prune_target=prune_target,
        prune_plan=prune_plan,
        int8=False,
        finetune=None,
        no_finetune=True,
        extra=extra,
    )
    others = [name for name, _ in recipe.passes if name not in ("prune_channels", "reestimate_bn")]
    if others:
        raise UserError(f"only options of prune_channels can be given here, not {others[0]}")
    if not recipe.passes:
        raise UserError("say how much to prune: --prune RATIO, --prune-target COST=VALUE or --prune-plan FILE")
    name, options = recipe.passes[0]
    if threads is not None:
        options = {"threads": threads, **options}
    make_pass(name, options)
    return name, options


def make_pruning(step: Step, source: Source) -> PruneChannels:
    """The pass, with the model's own defaults for what was not given, as in a run."""
    made = Recipe(passes=(step,)).with_defaults(source.defaults).make_passes()[0]
    assert isinstance(made, PruneChannels)
    return made


def to_ratios(text: str) -> tuple[float, ...]:
    """`0.25,0.5` as numbers in (0, 1)."""
    try:
        ratios = tuple(float(part) for part in text.split(","))
    except ValueError:
        ratios = ()
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise UserError(f"--ratios takes numbers in (0, 1), such as 0.25,0.5, got '{text}'")
    return ratios
