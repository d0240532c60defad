"""What a run did, as JSON with stable names, and as Markdown."""

from compress.report.build import SCHEMA_VERSION, build_report
from compress.report.markdown import to_markdown

__all__ = ["SCHEMA_VERSION", "build_report", "to_markdown"]
