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
        _, _, arguments = inspect.cleandoc(part.__doc__ or "").partition("Args:\n")
        for listed, text in ENTRY.findall(re.split(r"^\S", arguments, maxsplit=1, flags=re.MULTILINE)[0]):
            options = listed.split(", ")
            for option in options:
                (together if options[1:] else alone).setdefault(option, " ".join(text.split()))
    return together | alone
