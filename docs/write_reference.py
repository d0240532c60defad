"""The pages of the reference that come from code: passes.md from the dataclasses, command-line.md from the commands.

python docs/write_reference.py
"""

import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import click

from cli.main import cli
from compress.docstrings import meanings, prose
from compress.passes import ORDER, find, names
from compress.recipe import default_text

HERE = Path(__file__).parent
WRITTEN = "Written by `python docs/write_reference.py`."


def main() -> None:
    for name, text in {"passes.md": passes_page(), "command-line.md": commands_page()}.items():
        (HERE / name).write_text(text)


def passes_page() -> str:
    """Every built-in pass: what its docstring says, and a table of its options."""
    parts = [
        "# Passes",
        f"{WRITTEN} Each option is an argument in Python, a key in a recipe and `--pass NAME:option=value` on the command line.",
        f"Flags run them in the order {', '.join(ORDER)}; a recipe may repeat them, and recover between two steps that prune.",
    ]
    for kind in map(find, names()):
        parts += [
            f"## {kind.name}",
            f"`{kind.__module__}.{kind.__qualname__}`; stage {kind.stage}; needs {data(kind)}.",
            prose(kind),
        ]
        known = meanings(kind)
        rows = [
            (f"`{f.name}`", kind_of(typing.get_type_hints(kind)[f.name]), default(f), known.get(f.name, ""))
            for f in fields(kind)
            if f.init
        ]
        parts.append(table(("option", "type", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def data(kind: Any) -> str:
    """What a pass needs of the task, in words."""
    return " and ".join(f"{need} data" if need != "train" else "training data" for need in kind.needs) or "no data"


def kind_of(hint: Any) -> str:
    """A type in words: `float or None`, or the texts that are allowed."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind_of(part) for part in arguments)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is dict:
        return f"dict of {kind_of(arguments[0])} to {kind_of(arguments[1])}"
    if origin is tuple:
        return f"tuple of {kind_of(arguments[0])}"
    return "None" if hint is type(None) else hint.__name__


def default(option: Field[Any]) -> str:
    """As a recipe would write it."""
    text = default_text(option)
    return text if text in ("none", "required") else f"`{text}`"


def commands_page() -> str:
    """Every command: its help, and a table of its options."""
    parts = [
        "# Command line",
        f"{WRITTEN} `--help` after any command says the same.",
        "Exit codes: 0 done; 2 what was asked for cannot work; 1 a pass, a check or the program failed; 130 interrupted.",
    ]
    for path, command in commands(cli, "compress"):
        context = click.Context(command, info_name=path)
        parts += [
            f"## {path}",
            f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```",
            inspect.cleandoc(command.help or ""),
        ]
        records = [parameter.get_help_record(context) for parameter in command.params]
        rows = [(f"`{names_}`", meaning) for names_, meaning in filter(None, records) if meaning]
        if rows:
            parts.append(table(("option", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, with all of its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """In Markdown. A bar within a cell would end it."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
