"""`report.html`: one file without scripts that needs no network, for a browser in light or dark, and for paper."""

from compress.report.html.page import to_html

__all__ = ["to_html"]
