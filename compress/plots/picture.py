"""A figure that a notebook shows by itself."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """Not of pyplot: it needs no display, and stays out of the figures of a notebook. That knows pyplot's figures only."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=80)
        return content.getvalue()
