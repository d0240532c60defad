"""A report as JSON text."""

import json
from typing import Any


def dumps(report: dict[str, Any]) -> str:
    """Indented, in standard JSON: a NaN would be no JSON, so it raises ValueError here instead of breaking a reader later."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"
