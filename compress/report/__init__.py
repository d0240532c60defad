"""What a run did, as JSON with stable names, as Markdown, and as a page for a browser."""

from compress.report.build import SCHEMA_VERSION, build_report
from compress.report.html import to_html
from compress.report.layers import layer_rows
from compress.report.markdown import to_markdown

__all__ = ["SCHEMA_VERSION", "build_report", "layer_rows", "to_html", "to_markdown"]
