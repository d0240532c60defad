"""What docstrings say of options, for those who read it elsewhere: an editor, a page of the reference."""

import inspect
import re

# An entry of `Args:` in a docstring whose indentation is cleaned: `name: text`, or `name, name: text`, and lines deeper than it.
ENTRY = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n {8,}.*)*)", re.MULTILINE)


def meanings(kind: type) -> dict[str, str]:
    """Option of a class -> what its docstring, or that of a class that it inherits from, says of it, in one line.

    A sentence on one option goes before a sentence on several of them, wherever it stands.
    """
    alone: dict[str, str] = {}
    together: dict[str, str] = {}
    for part in kind.__mro__:
        for listed, text in ENTRY.findall(_parts(part)[1]):
            options = listed.split(", ")
            for option in options:
                (together if options[1:] else alone).setdefault(option, " ".join(text.split()))
    return together | alone


def summary(kind: type) -> str:
    """The first paragraph of a class's docstring, in one line."""
    return " ".join(_parts(kind)[0].split("\n\n")[0].split())


def prose(kind: type) -> str:
    """A class's docstring without its `Args:`."""
    before, _, after = _parts(kind)
    return "\n\n".join(filter(None, (before.strip(), after.strip())))


def _parts(kind: type) -> tuple[str, str, str]:
    """What stands before the entries of `Args:`, the entries, which are indented, and what stands after them."""
    before, _, rest = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")
    after = re.search(r"^\S", rest, re.MULTILINE)
    end = after.start() if after else len(rest)
    return before, rest[:end], rest[end:]
