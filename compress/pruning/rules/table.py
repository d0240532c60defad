"""The rules by operator, and their application."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from compress.pruning.trace import Trace

Rule = Callable[[Trace, Any, list[Any]], None]
RULES: dict[str, Rule] = {}

FIXED_INPUT = "reads the model's input, or values of a fixed number"
# An operator that torch's registry tags as pointwise, and that has no rule of its own, has the rule of this one.
POINTWISE = "aten::copy"

ALONG = "runs along values of a fixed number"


def register(*operators: str) -> Callable[[Rule], Rule]:
    """Decorator: the rule of these operators, named as in torch's registry, such as `aten::relu` or `mylib::scale`.

    For an operator that works on each value by itself, `register("mylib::scale")(pointwise)` is all there is to do.
    """

    def add(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return add


def apply_rule(trace: Trace, func: Any, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Apply the operator's rule; without one, fix all axes of its inputs."""
    name = func._schema.name
    rule = RULES.get(name.removesuffix("_") if name not in RULES else name)
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = RULES[POINTWISE]
    if rule is None:
        trace.fix_all((args, kwargs), f"goes into {name.removeprefix('aten::')}, for which there is no rule")
        return
    try:
        rule(trace, out, _positional(func, args, kwargs))
    except Exception as error:  # shapes that a rule does not foresee must not stop all the others
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        trace.fix_all((args, kwargs), f"goes into {name.removeprefix('aten::')}, whose rule fails on it ({first})")


def _positional(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    schema = func._schema.arguments
    return [
        args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value if argument.has_default_value() else None)
        for i, argument in enumerate(schema)
    ]


def first(out: Any) -> Any:
    """The result of an operator, or the first of several."""
    return out[0] if isinstance(out, tuple | list) else out
