"""What a recipe may hold, as a JSON schema by which an editor completes, explains and checks one while it is written."""

import types
import typing
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from compress.docstrings import meanings, summary
from compress.passes import find, names
from compress.recipe import KEYS, Recipe, default_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KEY_TYPES = {str: "string", int: "integer", bool: "boolean"}
# A value of the type itself, or what `compress.convert` reads from a text: to YAML `1e-2` is one.
SCALARS: dict[Any, dict[str, Any]] = {
    bool: {"enum": [True, False, "true", "false", "yes", "no"]},
    int: {"type": ["integer", "string"], "pattern": r"^[+-]?\d+$"},
    float: {"type": ["number", "string"], "pattern": r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"},
    str: {"type": "string"},
}


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe, JSON Schema draft 2020-12, as plain data.

    It knows every option of the passes that are installed here, and lets other passes through, which may be installed where the
    recipe runs. Names and types of options are checked; ranges, and what options mean to each other, only by a run. In one thing
    it is stricter than that: true and false are not 1 and 0.
    """
    known, about = names(), meanings(Recipe)
    properties: dict[str, Any] = {
        key: {"description": about[key], "type": [KEY_TYPES[kind], "null"]} for key, kind in KEYS.items() if kind in KEY_TYPES
    }
    with_options = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {name: {"$ref": f"#/$defs/{name}"} for name in known},
        "additionalProperties": {"type": ["object", "null"]},
    }
    properties["passes"] = {
        "description": about["passes"],
        "type": "array",
        "items": {"anyOf": [{"enum": known}, {"type": "string"}, with_options]},  # the first is what editors offer
    }
    return {
        "$schema": DIALECT,
        "title": "A recipe of compress",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {name: _pass_schema(find(name)) for name in known},
    }


def _pass_schema(kind: type[Any]) -> dict[str, Any]:
    """The schema of a pass's options; of any options where the pass is no dataclass."""
    schema: dict[str, Any] = {"description": summary(kind), "type": ["object", "null"]}
    if not is_dataclass(kind):
        return schema
    hints, about = typing.get_type_hints(kind), meanings(kind)
    options = [field for field in fields(kind) if field.init]
    schema["properties"] = {
        field.name: {"description": about.get(field.name, ""), **_default(field), **_option_schema(hints[field.name])}
        for field in options
    }
    schema["additionalProperties"] = False
    required = [field.name for field in options if field.default is MISSING and field.default_factory is MISSING]
    return schema | ({"required": required, "type": "object"} if required else {})


def _option_schema(hint: Any) -> dict[str, Any]:
    """The schema of what `compress.convert` reads as a type; of anything, where that does not know the type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = _option_schema(next(part for part in arguments if part is not types.NoneType))
        return {"anyOf": [inner, {"enum": [None, "none"]}]} if types.NoneType in arguments else inner
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is dict:
        value = _option_schema(arguments[1])
        pair = f"[^,]+={value.get('pattern', '^[^,]+$')[1:-1]}"  # as one text: layer1.*=0.3,layer2.*=0.5
        as_text = {"type": "string", "pattern": f"^{pair}(,{pair})*$"}
        return {"anyOf": [{"type": "object", "additionalProperties": value}, as_text]}
    if origin is tuple:
        return {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}
    return SCALARS.get(hint, {})


def _default(field: Field[Any]) -> dict[str, Any]:
    """`default`, where there is one that JSON can hold."""
    value = default_of(field)
    value = list(value) if isinstance(value, tuple) else value
    return {"default": value} if value is None or isinstance(value, bool | int | float | str | list | dict) else {}
