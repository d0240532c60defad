"""Quantization of several models by several methods, ours and other tools', on the same fp32 file and calibration samples.

    pip install nncf==3.4.0 openvino==2026.4.1
    python benchmarks/quantization.py resnet18 efficientnet-lite0 --files FOLDER --result FILE

One row per model and method, written as soon as it is there; an interrupted run goes on where it stopped. Accuracy and the
mean Kullback-Leibler divergence of the outputs from those of float are by ONNX Runtime on all evaluation samples; latency is
p50 of single samples on one thread, interleaved with the fp32 file and with ONNX Runtime's own int8 file, in both orders.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from peers import NNCF_SETTINGS, SETTINGS, quantize_with_nncf, quantize_with_nncf_for_openvino, quantize_with_ort
from subjects import SUBJECTS, Subject
from torch import Tensor

from compress.artifact import Artifact
from compress.export import export_onnx
from compress.files import write_atomically
from compress.measure import describe_environment, integer_coverage, open_onnx, time_interleaved
from compress.measure.coverage import optimized_graph
from compress.measure.latency import ratio_with_interval
from compress.measure.openvino_coverage import openvino_coverage
from compress.measure.profile import CONVERSIONS
from compress.pipeline import transformed
from compress.quant.targets import target_of
from compress.recipe import make_pass

MATRIX = Path(__file__).parent / "quantization.yaml"
PEERS: dict[str, Callable[[Path, Path, Callable[[], Iterator[tuple[np.ndarray, ...]]]], None]] = {
    "onnxruntime": quantize_with_ort,
    "nncf": quantize_with_nncf,
    "nncf-openvino": quantize_with_nncf_for_openvino,
}
ON_OPENVINO = "nncf-openvino"


def main() -> None:
    matrix = yaml.safe_load(MATRIX.read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", choices=[*SUBJECTS, []])
    parser.add_argument("--small", action="store_true", help="the small form instead, which the tests run, too")
    parser.add_argument("--methods", nargs="+", default=list(matrix["methods"]), choices=matrix["methods"])
    parser.add_argument("--files", type=Path, default=Path())
    parser.add_argument("--limit-eval", type=int)
    parser.add_argument("--no-latency", action="store_true", help="leave out what needs a quiet machine")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are there")
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()

    result = json.loads(options.result.read_text()) if options.result.exists() else {"rows": []}
    command = "python benchmarks/quantization.py " + " ".join(sys.argv[1:])
    result["commands"] = [*(other for other in result.get("commands", []) if other != command), command]
    result["environment"] = describe_environment(1)
    result["peers"] = {"onnxruntime": SETTINGS, "nncf": NNCF_SETTINGS}
    small = matrix["small"] if options.small else {}
    for name in [*small, *options.subjects]:
        samples, wanted = (small[name]["samples"], small[name]["expected"]) if name in small else (options.limit_eval, {})
        if name not in small and options.limit_eval is None:
            wanted = matrix["expected"].get(name, {})
        subject = SUBJECTS[name](options.files, samples)
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(subject, Path(folder), latency=not options.no_latency)
            for method in ["float", *(wanted if name in small else options.methods)]:
                key = {"model": name, "method": method, "samples": len(subject.labels)}
                there = [row for row in result["rows"] if row.items() >= key.items()]
                if there and not options.again and method != "float":
                    continue
                row = key | bench.row(method, matrix["methods"].get(method))
                result["rows"] = [other for other in result["rows"] if other not in there] + [row]
                for difference in differences(row, wanted.get(method, {})):
                    print(f"{name} {method}: {difference}")
                print(json.dumps(row), flush=True)
                write_atomically(options.result, (json.dumps(result, indent=1) + "\n").encode())


class Bench:
    """Rows of one model; what the first, `float`, leaves is what the others are compared with."""

    def __init__(self, subject: Subject, folder: Path, *, latency: bool) -> None:
        self.subject, self.folder, self.latency = subject, folder, latency
        self.artifact = Artifact.start(subject.model, subject.task)
        self.float_logits = np.empty(0)

    def row(self, method: str, passes: Any) -> dict[str, Any]:
        """What one method makes of the model, measured on its file."""
        path = self.folder / (f"{method}.xml" if method == ON_OPENVINO else f"{method}.onnx")
        runtime = "openvino" if method == ON_OPENVINO else "ort-cpu"
        begun = time.perf_counter()
        if method == "float":
            export_onnx(self.artifact.model, self.artifact.task.example_inputs, path, self.artifact.signature)
        elif passes == "peer":
            PEERS[method](self.folder / "float.onnx", path, self._calibration)
        else:
            runtime = self._compress(passes, path)
        found: dict[str, Any] = {"seconds": round(time.perf_counter() - begun, 1), "size_bytes": _bytes(path)}
        logits = self._logits(path, runtime)
        if method == "float":
            self.float_logits = logits
        found |= compare(logits, self.float_logits, self.subject.labels)
        if method not in ("float", ON_OPENVINO) and runtime == "openvino":
            found["integers"] = str(openvino_coverage(path))
        elif method != "float" and runtime == "ort-cpu":
            found["integers"], found["conversions"] = str(integer_coverage(path)), conversions(path)
            if self.latency:
                found["latency"] = self._latency(path)
        if self.latency and importlib.util.find_spec("openvino"):
            found["openvino p50 ms"] = self._on_openvino(path)
        return found

    def _compress(self, passes: dict[str, dict[str, Any]], path: Path) -> str:
        """Write the file; gives the runtime that it is for."""
        artifact = self.artifact
        for name, options in passes.items():
            artifact = transformed(make_pass(name, options), replace(artifact, notes=[]), 0, torch.device("cpu"))
        export_onnx(artifact.model, artifact.task.example_inputs, path, artifact.signature)
        return target_of(artifact.model).name

    def _calibration(self) -> Iterator[tuple[np.ndarray, ...]]:
        assert self.subject.task.calibration is not None
        return (tuple(x.numpy() for x in batch) for batch in self.subject.task.calibration())

    def _logits(self, path: Path, runtime: str) -> np.ndarray:
        session, parts = open_onnx(path, runtime, threads=torch.get_num_threads()), []

        def predict(*inputs: Tensor | np.ndarray) -> np.ndarray:
            parts.append(session.predict(*inputs))
            return parts[-1]

        assert self.subject.task.evaluate is not None
        self.subject.task.evaluate(predict)
        return np.concatenate(parts)

    def _latency(self, path: Path) -> dict[str, list[float]]:
        """p50 over p50 with its 95 % interval, then both p50 in ms."""
        ort = self.folder / "onnxruntime.onnx"
        pairs = {"float over this": [self.folder / "float.onnx", path]}
        if path != ort and ort.exists():
            pairs |= {"this over onnxruntime": [path, ort], "this over onnxruntime, other order": [ort, path]}
        single = [x[:1].numpy() for x in self.artifact.task.example_inputs]
        found = {}
        for name, order in pairs.items():
            sessions = {file: open_onnx(file) for file in order}
            times = time_interleaved({file: (lambda s=s: s.run(*single)) for file, s in sessions.items()}, min_seconds=3)
            top, bottom = (order[1], order[0]) if name.endswith("other order") else order
            medians = [float(np.median(times[file])) for file in (top, bottom)]
            found[name] = [round(value, 4) for value in (*ratio_with_interval(times[top], times[bottom]), *medians)]
        return found

    def _on_openvino(self, path: Path) -> dict[str, float]:
        """Of the file, and beside it of the float one and of NNCF's, where that is there."""
        files = {"float": self.folder / "float.onnx", "this": path, ON_OPENVINO: self.folder / f"{ON_OPENVINO}.xml"}
        sessions = {name: open_onnx(file, "openvino") for name, file in files.items() if file.exists()}
        single = [x[:1].numpy() for x in self.artifact.task.example_inputs]
        times = time_interleaved({name: (lambda s=s: s.run(*single)) for name, s in sessions.items()}, min_seconds=2)
        return {name: round(float(np.median(values)), 4) for name, values in times.items()}


def _bytes(path: Path) -> int:
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)


def differences(row: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What a row says otherwise than expected: a number further away than its tolerance, or another text."""
    found = []
    for column, value in expected.items():
        got = row[column]
        if isinstance(value, list):
            if not abs(got - value[0]) <= value[1]:
                found.append(f"{column} {value[0]} within {value[1]} was expected, got {got}")
        elif got != value:
            found.append(f"{column} '{value}' was expected, got '{got}'")
    return found


def conversions(path: Path) -> str:
    """How many conversions are left in the graph that ONNX Runtime executes: `1 QuantizeLinear, 2 Transpose`."""
    kinds = Counter(node.op_type for node in optimized_graph(path).graph.node)
    return ", ".join(f"{kinds[kind]} {kind}" for kind in CONVERSIONS if kinds[kind])


def compare(logits: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and how the outputs (samples, classes) differ from those of float.

    `drop_points` is in percentage points with the standard error of the paired difference; `kl_divergence` in nats.
    """
    right, before = (scores.argmax(1) == labels for scores in (logits, reference))
    difference = before.astype(float) - right
    p, q = (_log_softmax(scores) for scores in (reference, logits))
    return {
        "accuracy": round(float(right.mean()), 5),
        "drop_points": round(100 * float(difference.mean()), 3),
        "drop_standard_error": round(100 * float(difference.std() / np.sqrt(len(labels))), 3),
        "agreement": round(float((logits.argmax(1) == reference.argmax(1)).mean()), 5),
        "kl_divergence": round(float((np.exp(p) * (p - q)).sum(1).mean()), 6),
    }


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores.astype(np.float64) - scores.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


if __name__ == "__main__":
    main()
