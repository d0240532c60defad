"""A header and rows of texts as Markdown, HTML or LaTeX, escaped; the columns in `left` hold words, the others numbers."""

import html
import re
from collections.abc import Collection, Sequence

Cells = Sequence[str]

# Control characters and halves of surrogate pairs: XML 1.0, fifth edition, production 2.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        # At the start of a row these would be read as arguments of the line break before it.
        "[": "{[}",
        "*": "{*}",
    }
)


def markdown_table(header: Cells, rows: Sequence[Cells], left: Collection[int] = (0,)) -> list[str]:
    """The lines of a table in GitHub's Markdown."""
    rule = ["---" if column in left else "---:" for column in range(len(header))]
    lines = [list(map(markdown_escaped, cells)) for cells in (header, *rows)]
    return ["| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:])]


def markdown_escaped(text: str) -> str:
    """The text as Markdown shows it as it is: no emphasis, no code, no tags, no end of a cell."""
    return re.sub(r"([\\`*<|])", r"\\\1", _on_one_line(text))


def html_table(header: Cells, rows: Sequence[Cells], left: Collection[int] = (0,), caption: str = "") -> str:
    """One `<table>` in ASCII, so that it reads the same in a page of any encoding; without colours, so in dark mode too.

    Each row is headed by its first cell, each column by its name, for those who hear a table.
    """

    def line(cells: Cells, first: str, others: str) -> str:
        made = ""
        for column, cell in enumerate(cells):
            tag, side = others if column else first, "left" if column in left else "right"
            made += f'<{tag} style="text-align: {side}">{html_escaped(cell)}</{tag[:2]}>'
        return f"<tr>{made}</tr>"

    title = f"<caption>{html_escaped(caption)}</caption>\n" if caption else ""
    head = line(header, 'th scope="col"', 'th scope="col"')
    body = "\n".join(line(cells, 'th scope="row"', "td") for cells in rows)
    return f"<table>\n{title}<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def html_block(header: Cells, rows: Sequence[Cells], lines: Sequence[str], left: Collection[int] = (0,)) -> str:
    """A table and what belongs to it as a list: what a notebook shows, or a page holds."""
    items = "\n".join(f"<li>{html_escaped(line)}</li>" for line in lines)
    return f"{html_table(header, rows, left)}\n<ul>\n{items}\n</ul>"


def html_escaped(text: str) -> str:
    """The text for an element or an attribute of HTML or XML, in ASCII; what XML has no letter for becomes U+FFFD."""
    return html.escape(_NOT_IN_XML.sub("\ufffd", text)).encode("ascii", "xmlcharrefreplace").decode()


def latex_table(header: Cells, rows: Sequence[Cells], left: Collection[int] = (0,)) -> str:
    """A `tabular` with the rules of the package booktabs."""
    columns = "".join("l" if column in left else "r" for column in range(len(header)))
    lines = [" & ".join(map(latex_escaped, cells)) + r" \\" for cells in (header, *rows)]
    body = "\n".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
    return f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}"


def latex_escaped(text: str) -> str:
    """The text as LaTeX prints it as it is; two hyphens do not become a dash."""
    return re.sub("-(?=-)", "-{}", _on_one_line(text).translate(_LATEX))


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
