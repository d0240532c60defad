"""Flags as a recipe: the same plain data that a YAML file holds."""

from dataclasses import replace
from typing import Any

from compress import recipe as recipes
from compress.errors import UserError
from compress.passes import ORDER, find
from compress.recipe import Recipe, Step


def to_recipe(
    *,
    recipe: str | None,
    prune: float | None,
    int8: bool,
    finetune: int | None,
    no_finetune: bool,
    extra: tuple[str, ...],
    **given: Any,
) -> Recipe:
    """The recipe that a command line asks for; `given` are its other keys, None where a flag was not used.

    Raises:
        UserError: flags that contradict each other, or an option that no pass has.
    """
    flags = {"--prune": prune, "--int8": int8, "--finetune": finetune, "--no-finetune": no_finetune, "--pass": extra}
    used = [flag for flag, value in flags.items() if value not in (None, False, ())]
    if recipe is not None:
        if used:
            raise UserError(f"--recipe already says which passes run; {used[0]} cannot be added to it: edit the file instead")
        base = recipes.read(recipe)
        return replace(base, **{key: value for key, value in given.items() if value is not None and value is not False})
    if finetune is not None and no_finetune:
        raise UserError("--finetune and --no-finetune contradict each other")
    steps: dict[str, dict[str, Any]] = {}
    implied: list[str] = []
    if prune is not None:
        steps["prune_channels"] = {"ratio": prune}
        steps["reestimate_bn"] = {"allow_noop": True}  # not every network has batch norm
        implied.append("reestimate_bn")
        if finetune is None and not no_finetune:
            steps["finetune"] = {}
            implied.append("finetune")
    if finetune is not None:
        # Without pruning the original would teach itself.
        steps["finetune"] = {"epochs": finetune} if prune is not None else {"epochs": finetune, "distill": False}
    if int8:
        steps["int8"] = {}
    for text in extra:
        name, option, value = _parse(text)
        steps.setdefault(name, {})
        if option is not None:
            if option in steps[name]:
                raise UserError(f"{name}: {option} is given twice; a recipe can hold a pass more than once, flags cannot")
            steps[name][option] = value
    ordered: list[Step] = sorted(steps.items(), key=lambda step: ORDER.index(find(step[0]).stage))
    values = {key: value for key, value in given.items() if value is not None}
    return Recipe(passes=tuple(ordered), implied=tuple(implied), **values)


def _parse(text: str) -> tuple[str, str | None, str | None]:
    """`NAME` or `NAME:key=value`."""
    name, colon, assignment = text.partition(":")
    key, equals, value = assignment.partition("=")
    if not name or (colon and not (key and equals)):
        raise UserError(f"--pass takes NAME or NAME:key=value, got '{text}'")
    return (name, key, value) if colon else (name, None, None)
