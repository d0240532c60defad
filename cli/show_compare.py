"""What `compress compare` prints."""

from rich.text import Text

from cli.show import Screen, make_table
from compress.comparison import Comparison
from compress.comparison.text import FORMATS, cells, notes

# Columns of a name that are left to it where the table is wider than the terminal.
NAME = 12


def comparison(screen: Screen, found: Comparison, form: str) -> None:
    """The table and what must be read beside it; or, in another format than `table`, that and nothing else."""
    if form != "table":
        screen.console.file.write(_sayable(FORMATS[form](found), screen.console.encoding) + "\n")
        return
    header, rows, left = cells(found)
    rows = [tuple(_sayable(text, screen.console.encoding) for text in texts) for texts in rows]
    table = make_table(header, [])
    for cell_texts in rows:
        table.add_row(*map(Text, cell_texts))
    for column in left:
        table.columns[column].justify, table.columns[column].no_wrap = "left", False
    # On a narrow terminal names are broken first; and rather a line than a number.
    widths = [max(map(len, texts)) for texts in zip(header, *rows, strict=True)]
    needed = sum(min(width, NAME) if column in left else width for column, width in enumerate(widths)) + 2 * len(widths)
    screen.console.width = max(screen.console.width, needed)
    screen.console.print(table)
    for line in notes(found):
        screen.console.print(_sayable(line, screen.console.encoding), markup=False)


def _sayable(text: str, encoding: str) -> str:
    """The text in letters that the terminal has, which may be ASCII alone."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("±", "+-").encode(encoding, "backslashreplace").decode(encoding)
    return text
