"""The main job as `make demo` runs it: time, memory, accuracy, size, and latency at 48x48 and at 224x224.

    python benchmarks/main_job.py --result benchmarks/results/main_job.json

Latency is p50 of single images on one thread, baseline and compressed interleaved; at 224x224 on random pixels.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from compress.bench import bench
from compress.measure import describe_environment
from compress.recipe import Recipe
from compress.run import Options, run_recipe

PASSES = (("prune_channels", {"ratio": 0.5}), ("reestimate_bn", {}), ("finetune", {}), ("int8", {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {
        "command": "python benchmarks/main_job.py " + " ".join(sys.argv[1:]),
        "environment": describe_environment(1),
    }
    runs = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "run"
            begun = time.perf_counter()
            report = run_recipe(Recipe("resnet18", seed=seed, passes=PASSES), Options(out=out)).report
            seconds = time.perf_counter() - begun
            large = bench([out], input_size=(224, 224))["rows"]
            runs.append(
                {
                    "seed": seed,
                    "seconds": round(seconds, 1),
                    "accuracy": {stage["name"]: stage["accuracy"] for stage in report["stages"]},
                    "stage_seconds": {stage["name"]: stage["seconds"] for stage in report["stages"]},
                    "summary": report["summary"],
                    "parity": report["parity"],
                    "integer_coverage": report["integer_coverage"],
                    "benchmarks": report["benchmarks"],
                    "at 224x224": [{**entry, "file": Path(entry["file"]).name} for entry in large],
                }
            )
            print(json.dumps(runs[-1]), flush=True)
    result["runs"] = runs
    result["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.result:
        options.result.write_text(text)


if __name__ == "__main__":
    main()
