"""What the sections of a page are made of. Arguments called `text`, and cells, are escaped; `inside` is markup."""

from collections.abc import Collection, Sequence
from typing import Any

from compress.tables import Cells, html_escaped, html_table


def section(title: str, *inside: str) -> str:
    """A heading that links can point at, and what is under it; nothing where there is nothing under it."""
    if not any(inside):
        return ""
    return f'<section id="{anchor(title)}">\n<h2>{html_escaped(title)}</h2>\n{"".join(inside)}</section>\n'


def anchor(title: str) -> str:
    """The name by which a link finds a section."""
    return title.lower().replace(" ", "-")


def paragraph(text: str, class_: str = "") -> str:
    """A paragraph."""
    return f'<p class="{class_}">{html_escaped(text)}</p>\n' if class_ else f"<p>{html_escaped(text)}</p>\n"


def bullets(texts: Sequence[str]) -> str:
    """A list; nothing where it is empty."""
    items = "".join(f"<li>{html_escaped(text)}</li>\n" for text in texts)
    return f"<ul>\n{items}</ul>\n" if items else ""


def table(caption: str, header: Cells, rows: Sequence[Cells], left: Collection[int] = (0,)) -> str:
    """A table that scrolls by itself where the page is too narrow for it."""
    markup = html_table(header, rows, left, caption)
    return f'<div class="scroll" role="region" aria-label="{html_escaped(caption)}" tabindex="0">\n{markup}\n</div>\n'


def figure(caption: str, picture: str) -> str:
    """A picture under its caption."""
    return f"<figure>\n<figcaption>{html_escaped(caption)}</figcaption>\n{picture}\n</figure>\n"


def grid(*inside: str, columns: int = 2) -> str:
    """Parts side by side where there is room for so many columns, else one below the other."""
    return f'<div class="grid columns-{columns}">\n{"".join(inside)}</div>\n'


def folded(text: str, *inside: str) -> str:
    """What is shown once somebody asks for it."""
    return f"<details>\n<summary>{html_escaped(text)}</summary>\n{''.join(inside)}</details>\n"


def stage_names(report: dict[str, Any]) -> list[str]:
    """The stages' names, with a number where one is there several times."""
    names = [stage["name"] for stage in report["stages"]]
    return [f"{name} {names[: at + 1].count(name)}" if names.count(name) > 1 else name for at, name in enumerate(names)]
