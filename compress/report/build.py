"""`report.json`: stable names, described by `schema.json` beside this file."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from compress.artifact import Record, record_to_dict
from compress.measure.coverage import Coverage
from compress.parity import Parity

# Raised when a name changes its meaning or goes; new names may come without.
SCHEMA_VERSION = 1


def build_report(
    *,
    model: str,
    data: str | None,
    seed: int,
    input_shape: list[list[int]],
    environment: dict[str, Any],
    stages: Sequence[Record],
    parity: Parity,
    coverage: Coverage,
    benchmarks: list[dict[str, Any]],
    fp16: dict[str, Any] | None,
    layers: list[dict[str, Any]],
) -> dict[str, Any]:
    """The report as plain data.

    Args:
        input_shape: per input, with batch 1.
        benchmarks: rows that were timed side by side; the second is the compressed file against the first, the baseline.
        layers: what `layer_rows` gives.
    """
    first, last = stages[0], stages[-1]
    drop = None if first.accuracy is None or last.accuracy is None else first.accuracy - last.accuracy
    return {
        "version": SCHEMA_VERSION,
        "model": model,
        "input_shape": input_shape,
        "data": data,
        "seed": seed,
        "environment": environment,
        "stages": [record_to_dict(stage) for stage in stages],
        "summary": {
            "speedup": benchmarks[1]["speedup"],
            "speedup_interval": benchmarks[1]["speedup_interval"],
            "size_ratio": first.size_bytes / last.size_bytes,
            "accuracy_drop": drop,
        },
        "parity": asdict(parity),
        "integer_coverage": {
            **{kind: list(counts) for kind, counts in coverage.counts.items()},
            "left_in_float": [{"name": name, "reason": reason} for name, reason in coverage.left_in_float],
        },
        "benchmarks": benchmarks,
        "fp16": fp16,
        "layers": layers,
    }
