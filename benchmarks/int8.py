"""Our int8 step beside ONNX Runtime's own tool: same fp32 file, same calibration images, timed interleaved in both orders.

    python benchmarks/int8.py resnet18 --result benchmarks/results/int8-resnet18.json
    python benchmarks/int8.py resnet56 --weights resnet56-4bfd9763.th --data npz:cifar10.npz --result ...

Accuracy is on the whole test set; latency is p50 of single images, ratios with 95 % bootstrap intervals.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from peers import SETTINGS, quantize_with_ort

from compress import zoo
from compress.measure import describe_environment, integer_coverage, open_onnx, time_interleaved
from compress.measure.latency import ratio_with_interval
from compress.pipeline import evaluated
from compress.recipe import Recipe
from compress.run import Options, run_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--weights")
    parser.add_argument("--data")
    parser.add_argument("--limit-eval", type=int)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()

    source = zoo.load(options.model, options.weights)
    task = zoo.load_task(source, options.data, None, options.limit_eval)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        recipe = Recipe(options.model, options.weights, options.data, limit_eval=options.limit_eval, passes=(("int8", {}),))
        run_recipe(recipe, Options(out=out))
        files = {"fp32": out / "baseline.onnx", "ours": out / "model.onnx", "onnxruntime": out / "ort.onnx"}
        assert task.calibration is not None
        quantize_with_ort(files["fp32"], files["onnxruntime"], (x.numpy() for (x,) in task.calibration()))
        rows = {name: row(path, task) for name, path in files.items()}
        ratios = {f"{threads} threads": ratios_of(files, task, threads) for threads in options.threads}
    result = {
        "command": "python benchmarks/int8.py " + " ".join(sys.argv[1:]),
        "peer": SETTINGS,
        "environment": describe_environment(max(options.threads)),
        "rows": rows,
        "ratio of p50, its interval, both p50 in ms": ratios,
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.result:
        options.result.write_text(text)


def row(path: Path, task: object) -> dict[str, object]:
    """Accuracy, size and integer coverage of one file."""
    accuracy, samples = evaluated(task, open_onnx(path, threads=2).predict)  # type: ignore[arg-type]
    return {
        "accuracy": accuracy,
        "eval_samples": samples,
        "size_bytes": path.stat().st_size,
        "integers": str(integer_coverage(path)),
    }


def ratios_of(files: dict[str, Path], task: object, threads: int) -> dict[str, list[float]]:
    """p50 over p50 with its interval, then both p50 in ms; ours over onnxruntime where not said otherwise."""

    def ratio(order: list[str], top: str, bottom: str) -> list[float]:
        sessions = {name: open_onnx(files[name], threads=threads) for name in order}
        times = time_interleaved({name: (lambda s=session: s.run(x)) for name, session in sessions.items()}, min_seconds=5)
        medians = [float(np.median(times[name])) for name in (top, bottom)]
        return [round(value, 4) for value in (*ratio_with_interval(times[top], times[bottom]), *medians)]

    x = task.example_inputs[0][:1].numpy()  # type: ignore[attr-defined]
    return {
        "order ours, onnxruntime": ratio(["ours", "onnxruntime"], "ours", "onnxruntime"),
        "order onnxruntime, ours": ratio(["onnxruntime", "ours"], "ours", "onnxruntime"),
        "fp32 over ours": ratio(["fp32", "ours"], "fp32", "ours"),
        "fp32 over onnxruntime": ratio(["fp32", "onnxruntime"], "fp32", "onnxruntime"),
    }


if __name__ == "__main__":
    main()
