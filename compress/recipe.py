"""A recipe: model, data and passes as plain data, from a YAML file or from flags; both end in the same texts and objects."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from compress.convert import KINDS, as_text, convert
from compress.errors import UserError, did_you_mean
from compress.passes import find
from compress.passes.base import Pass
from compress.pipeline import options_of
from compress.recipes import names, resolve

# One step: the pass's name and the options that were given for it.
Step = tuple[str, dict[str, Any]]

KEYS: dict[str, type] = {
    "model": str,
    "weights": str,
    "data": str,
    "seed": int,
    "limit_train": int,
    "limit_eval": int,
    "fp16": bool,
    "passes": list,
}


@dataclass(frozen=True)
class Recipe:
    """What a run does.

    Args:
        model: a name of the zoo, hf:ID_OR_FOLDER, torchvision:NAME, timm:NAME, or FILE.py:FUNCTION; None: told when it is run.
        weights: a file to start from, safetensors or a state dict; None: the model's own.
        data: a data set's name, imagefolder:DIR, npz:FILE, jsonl:FILE, or FILE.py:FUNCTION; None: the model's own.
        seed: of every random choice, at least 0.
        limit_train: use only so many training samples, evenly over the classes; None: all.
        limit_eval: the same of test samples.
        fp16: also write and check a half-precision file.
        passes: names and options, in order.
        implied: passes that flags brought along; left out, and said so, where the task lacks what they need.
    """

    model: str | None = None
    weights: str | None = None
    data: str | None = None
    seed: int = 0
    limit_train: int | None = None
    limit_eval: int | None = None
    fp16: bool = False
    passes: tuple[Step, ...] = ()
    implied: tuple[str, ...] = ()

    def overridden(self, **given: Any) -> "Recipe":
        """The recipe with these values in place of its own, where they are not None."""
        return replace(self, **{key: value for key, value in given.items() if value is not None})

    def make_passes(self) -> list[Pass]:
        """The passes themselves."""
        return [make_pass(name, options) for name, options in self.passes]

    def with_defaults(self, defaults: Mapping[str, Mapping[str, Any]]) -> "Recipe":
        """The recipe with a model's own defaults for options that were not given."""
        # What a model recovers with holds for both ways to recover.
        given = {**defaults, "distill": {**defaults.get("finetune", {}), **defaults.get("distill", {})}}
        return replace(self, passes=tuple((name, {**given.get(name, {}), **options}) for name, options in self.passes))


def resolved(recipe: Recipe, passes: Sequence[Pass]) -> dict[str, Any]:
    """The recipe as plain data with every option of `passes` written out; dumped as YAML, `read` understands it."""
    values = {key: getattr(recipe, key) for key in KEYS if key != "passes"}
    return {**values, "passes": [{pass_.name: options_of(pass_)} for pass_ in passes]}


def make_pass(name: str, options: Mapping[str, Any], where: str = "") -> Pass:
    """The pass with these options; texts, as flags give them, are converted to an option's type.

    Args:
        where: file and line for messages, such as `recipe.yaml, line 4: `.

    Raises:
        UserError: unknown pass or option, wrong type, or a value that the pass refuses.
    """
    kind = _find(name, where)
    known = {f.name: f for f in fields(kind) if f.init}
    hints = typing.get_type_hints(kind)
    values = {}
    for option, value in options.items():
        if option not in known:
            raise UserError(f"{where}{name} has no option '{option}'." + did_you_mean(option, list(known)))
        values[option] = convert(value, hints[option], f"{where}{name}: {option}", default_of(known[option]))
    missing = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING and n not in values]
    if missing:
        raise UserError(f"{where}{name} needs the option '{missing[0]}'")
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(where + str(error)) from None


def default_of(field: Field[Any]) -> Any:
    """An option's own value where none is given; MISSING where one must be."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def default_text(field: Field[Any]) -> str:
    """The same in words, for people; `required` where one must be given."""
    value = default_of(field)
    return "required" if value is MISSING else as_text(value)


def read(path: Path | str) -> Recipe:
    """The recipe in a YAML file, or one of the package.

    Args:
        path: the file. A text that is the name of a recipe of the package means that one, whatever files there are; `./NAME`, or
            a `Path`, is the file.

    Raises:
        UserError: no such recipe or file; not readable, not YAML, an unknown key or a wrong type, with the file and the line.
    """
    path = resolve(path) if isinstance(path, str) else path
    try:
        with path.open(encoding="utf8") as file:  # not its text alone: the marks of a stream know its name
            node = yaml.compose(file, _Loader)
    except OSError as error:
        ours = f"; the one of the package is '{path.stem}'" if str(path) == path.name and path.stem in names() else ""
        raise UserError(f"the recipe {path} cannot be read: {error.strerror}{ours}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}: a recipe is a mapping with the keys {', '.join(KEYS)}")
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, value = _plain(key_node), _plain(value_node)
        where = f"{path}, line {key_node.start_mark.line + 1}: "
        if key not in KEYS:
            raise UserError(f"{where}unknown key '{key}'." + did_you_mean(str(key), list(KEYS)))
        if key == "passes":
            values[key] = _steps(value_node, path)
        elif value is not None:
            if type(value) is not KEYS[key]:
                raise UserError(f"{where}{key} must be {KINDS[KEYS[key]]}, got {value!r}")
            values[key] = value
    return Recipe(**values)


def _steps(node: yaml.Node, path: Path) -> tuple[Step, ...]:
    shape = "passes must be a list of '- NAME: {option: value}'"
    if not isinstance(node, yaml.SequenceNode):
        raise UserError(f"{path}, line {node.start_mark.line + 1}: {shape}")
    steps: list[Step] = []
    for item in node.value:
        where = f"{path}, line {item.start_mark.line + 1}: "
        value = _plain(item)
        if isinstance(value, str):
            value = {value: {}}
        if not isinstance(value, dict) or len(value) != 1:
            raise UserError(where + shape)
        name, options = next(iter(value.items()))
        options = {} if options is None else options
        if not isinstance(options, dict):
            raise UserError(f"{where}the options of {name} must be a mapping, got {options!r}")
        lines = _option_lines(item)
        for option, given in options.items():  # each alone first, so that the message has the option's own line
            _check_option(name, option, given, f"{path}, line {lines.get(option, item.start_mark.line) + 1}: ")
        make_pass(name, options, where)
        steps.append((name, options))
    return tuple(steps)


def _check_option(name: str, option: str, value: Any, where: str) -> None:
    """Check one option of a pass by itself; raises as `make_pass` does."""
    required = {f.name for f in fields(_find(name, where)) if f.default is MISSING and f.default_factory is MISSING}
    if not required - {option}:
        make_pass(name, {option: value}, where)


def _find(name: str, where: str) -> type[Any]:
    """`find` with a place in front of its message."""
    try:
        return find(name)
    except UserError as error:
        raise UserError(where + str(error)) from None


def _option_lines(item: yaml.Node) -> dict[str, int]:
    """Line, from 0, of each option of a step."""
    if not isinstance(item, yaml.MappingNode) or not isinstance(item.value[0][1], yaml.MappingNode):
        return {}
    return {str(key.value): key.start_mark.line for key, _ in item.value[0][1].value}


class _Loader(yaml.SafeLoader):
    """Plain YAML without numbers to the base of 60: `pattern: 2:4` is a text, not 124. A key that is there twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise UserError(f"{key.start_mark.name}, line {key.start_mark.line + 1}: '{key.value}' is there twice")
            seen.add(key.value)
        return node


def _text_or_number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    if ":" in node.value:
        return node.value
    return loader.construct_yaml_int(node) if node.tag.endswith(":int") else loader.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _text_or_number)


def _plain(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    except yaml.constructor.ConstructorError as error:
        line = node.start_mark.line + 1
        raise UserError(f"{node.start_mark.name}, line {line}: only plain YAML is read, and {error.problem}") from None
    finally:
        loader.dispose()
