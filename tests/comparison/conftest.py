"""Folders of runs whose reports were written by hand, to the schema of the real ones."""

import copy
import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

LATENCY = {"p50": 4.0, "p90": 5.0, "p99": 6.0, "batch": 1, "runtime": "ort-cpu", "threads": 1}
BASELINE = {
    "name": "baseline",
    "options": {},
    "seconds": 0.0,
    "accuracy": 0.9,
    "eval_samples": 1000,
    "params": 2_000_000,
    "nonzero_params": 1_900_000,
    "macs": 80_000_000,
    "size_bytes": 8_000_000,
    "latency_ms": LATENCY,
    "notes": [],
}
PRUNED = {
    **BASELINE,
    "name": "prune_channels",
    "options": {"ratio": 0.5, "exclude": []},
    "seconds": 1.5,
    "accuracy": 0.5,
    "params": 500_000,
    "macs": 20_000_000,
    "size_bytes": 2_000_000,
    "latency_ms": {**LATENCY, "p50": 2.0},
}
INT8 = {**PRUNED, "name": "int8", "options": {"ranges": "auto"}, "seconds": 2.0, "accuracy": 0.88, "size_bytes": 500_000}
ENVIRONMENT = {
    "python": "3.11.7",
    "system": "Linux x86_64",
    "versions": {"torch": "2.13.0", "onnxruntime": "1.31.1"},
    "cpu": "A CPU",
    "isa_flags": ["avx2", "avx512_vnni"],
    "cores": 2,
    "threads": 1,
    "gpu": None,
}


def timed(file: str, p50: float, p90: float, speedup: float) -> dict[str, Any]:
    latency = {**LATENCY, "p50": p50, "p90": p90}
    return {"file": file, "latency_ms": latency, "throughput": 1.0, "peak_memory_bytes": None, "speedup": speedup}


def report() -> dict[str, Any]:
    """A run that pruned and quantized: 90 to 88 %, and 4.2 to 0.7 ms side by side."""
    exact = {"top1_agreement": 1.0, "max_rel_error": 0.0, "samples": 256, "ties": 0, "on": "evaluation"}
    return copy.deepcopy(
        {
            "version": 1,
            "model": "net",
            "input_shape": [[1, 3, 8, 8]],
            "data": "digits",
            "seed": 0,
            "environment": ENVIRONMENT,
            "stages": [BASELINE, PRUNED, {**INT8, "latency_ms": {**LATENCY, "p50": 0.8, "p90": 0.9}}],
            "summary": {"speedup": 6.0, "speedup_interval": [5.9, 6.1], "size_ratio": 16.0, "accuracy_drop": 0.02},
            "parity": exact,
            "integer_coverage": {"conv": [1, 1], "linear": [1, 1], "add": [0, 0], "left_in_float": []},
            "benchmarks": [timed("baseline.onnx", 4.2, 4.9, 1.0), timed("model.onnx", 0.7, 0.75, 6.0)],
            "fp16": None,
        }
    )


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of a run: `made("a", seed=1)`; a function changes the report in place, `limit_train` is the recipe's."""
    schema = json.loads(importlib.resources.files("compress.report").joinpath("schema.json").read_text())

    def make(name: str, change: Callable[[dict[str, Any]], None] = lambda report: None, *, seed: int = 0, **recipe: Any) -> Path:
        content = {**report(), "seed": seed}
        change(content)
        jsonschema.validate(content, schema)
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(content))
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"weights": None, "limit_train": None, **recipe}))
        return folder

    return make
