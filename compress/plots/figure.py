"""The figure that every picture is drawn on, the colours they share, and the file that one is written to."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import UserError
from compress.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
# Shades of one blue, and orange for what must stand out: told apart in grey and by the colour-blind.
SHADES, ACCENT = ("#b7d0ea", "#5b94cf", "#1d4f8b", "#0b2443"), "#e07b1a"


def save(figure: "Figure", path: Path) -> None:
    """Write the picture in the format that the file's name ends in: png, svg or pdf.

    Raises:
        UserError: another ending, or the file cannot be written.
    """
    check_format(path)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    write_atomically(path, content.getvalue())


def check_format(path: Path) -> None:
    """Whether a picture can be written under this name; asked before what it shows is measured.

    Raises:
        UserError: it cannot, or matplotlib is not installed.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise UserError(f"a picture's name ends in .png, .svg or .pdf, got {path}")
    new_figure()


def new_figure() -> "Figure":
    """An empty figure, whose parts find their places by themselves.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from compress.plots.picture import Picture
    except ImportError:
        raise UserError("a plot needs matplotlib; install it with: pip install 'compress-toolkit[plot]'") from None
    return Picture(layout="constrained")
