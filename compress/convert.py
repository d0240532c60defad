"""An option's value as the type that it is annotated with, from YAML or from the text of a flag."""

import types
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from compress.errors import UserError

KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a mapping"}


def convert(value: Any, hint: Any, what: str, usual: Any = None) -> Any:
    """`value` as the type that an option is annotated with.

    These are bool, int, float, str, Literal, tuple[str, ...], dict of str to float, int or str, or any of them | None.

    Args:
        usual: a mapping that shows in messages how one is written; without, layers are what is mapped.

    Raises:
        UserError: "`what` must be ..., got ...".
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and (value is None or (isinstance(value, str) and value.lower() in ("none", "null"))):
            return None
        return convert(value, next(part for part in arguments if part is not type(None)), what, usual)
    if origin is typing.Literal:
        for choice in arguments:
            if value == choice or str(value) == str(choice):
                return choice
        raise UserError(f"{what} must be one of {', '.join(map(str, arguments))}, got {value!r}")
    if origin is dict:
        return _texts(value, what) if arguments[1] is str else _numbers(value, _SCALARS[arguments[1]], what, usual)
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise UserError(f"{what} must be a list of texts, got {value!r}")
        return tuple(items)
    try:
        return _SCALARS[hint](value)
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{what} must be {KINDS.get(hint, hint)}, got {value!r}") from None


def as_text(value: Any) -> str:
    """A value as a recipe or `--pass` would write it, in one line; `none` where it is empty."""
    if isinstance(value, Mapping):
        value = [f"{name}={item}" for name, item in value.items()]
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value)) or None
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _numbers(value: Any, kind: Callable[[Any], float], what: str, usual: Any) -> dict[str, float]:
    """A mapping of texts to numbers of a kind; as a flag `layer1.*=0.3,layer2.*=0.5`."""
    found = value
    if isinstance(value, str):
        pairs = [pair.rpartition("=") for pair in value.split(",")]
        found = _once([(name.strip(), number) for name, _, number in pairs], what)
    try:
        if not isinstance(found, Mapping) or not all(isinstance(name, str) and name for name in found):
            raise ValueError
        return {name: kind(number) for name, number in found.items()}
    except (ValueError, TypeError):
        shown = usual if isinstance(usual, Mapping) and usual else {"layer1.*": 4 if kind is _int else 0.3}
        example = ",".join(f"{name}={number:g}" for name, number in shown.items())
        raise UserError(f"{what} must map texts to numbers, such as {example}, got {value!r}") from None


def _texts(value: Any, what: str) -> dict[str, str]:
    """A mapping of texts to texts; as a flag `layer1=layer1,layer2=layer3`."""
    found = value
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",")]
        found = _once([(name.strip(), text.strip()) for name, _, text in pairs], what)
    if not isinstance(found, Mapping) or not all(isinstance(x, str) and x for pair in found.items() for x in pair):
        raise UserError(f"{what} must map texts to texts, such as layer1=layer1,layer2=layer3, got {value!r}")
    return dict(found)


def _once(pairs: list[tuple[str, str]], what: str) -> dict[str, str]:
    """The pairs as a mapping, unless a name is there twice: nobody can mean both."""
    for name, count in Counter(name for name, _ in pairs if name).items():
        if count > 1:
            raise UserError(f"{what} has '{name}' twice; leave one out")
    return dict(pairs)


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}[str(value).lower()]


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_SCALARS: dict[Any, Any] = {bool: _bool, int: _int, float: _float, str: _str}
