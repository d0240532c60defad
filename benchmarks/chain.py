"""The whole sequence, one row per stage: original, pruned, re-estimated, distilled, then int8, and QAT in place of int8.

    python benchmarks/chain.py resnet18 --out FOLDER --result FILE
    python benchmarks/chain.py resnet56 --weights FILE --data npz:cifar10.npz --out FOLDER --result FILE

ResNet-18 on the bundled images loses half of its channels; ResNet-56 on CIFAR-10 keeps 1/2.1 of its MACs. Three runs are kept in
FOLDER: the float one, with a control if asked for (the same recovery without a teacher), and the two that start from its network.
The same command goes on where it was interrupted; once all is there it only times the written files again, side by side.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from compress import zoo
from compress.files import write_atomically
from compress.folder import BASELINE, MODEL
from compress.measure import describe_environment, open_onnx, time_interleaved
from compress.measure.latency import ratio_with_interval
from compress.recipe import Recipe, Step, make_pass
from compress.run import Options, load, run, run_recipe

CUTS: dict[str, dict[str, Any]] = {
    "resnet18": {"ratio": 0.5},
    "resnet56": {"target": f"macs={1 / 2.1:.4f}", "ranking": "global", "round_to": 1},
}
INTEGERS: dict[str, dict[str, Any]] = {"int8": {}, "qat": {"epochs": 1}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=CUTS)
    parser.add_argument("--weights")
    parser.add_argument("--data")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--losses", default="kd=0.9,ce=0.1")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()

    distill = {"epochs": options.epochs, "lr": options.lr, "losses": options.losses, "control": options.control}
    passes: tuple[Step, ...] = (("prune_channels", CUTS[options.model]), ("reestimate_bn", {}), ("distill", distill))
    recipe = Recipe(
        model=options.model,
        weights=options.weights,
        data=options.data,
        seed=options.seed,
        limit_train=options.limit_train,
        passes=passes,
    )
    recovered = options.out / "float"
    stages = list(run_recipe(recipe, Options(out=recovered, resume=True)).report["stages"])
    files = {"baseline": recovered / BASELINE, "distill": recovered / MODEL}
    task = zoo.load_task(zoo.load(options.model, options.weights), options.data, options.limit_train)
    for name, settings in INTEGERS.items():
        folder = options.out / name
        report = run(load(recovered), task, [make_pass(name, settings)], out=folder, seed=options.seed, resume=True).report
        stages.append(report["stages"][-1])
        files[name] = folder / MODEL

    times = timed(files, [x[:1].numpy() for x in task.example_inputs])
    result = {
        "command": "python benchmarks/chain.py " + " ".join(sys.argv[1:]),
        "environment": describe_environment(1),
        "stages": [shown(stage, stages[0]) | times.get(stage["name"], {}) for stage in stages],
    }
    write_atomically(options.result, (json.dumps(result, indent=1) + "\n").encode())
    for stage in result["stages"]:
        print(json.dumps(stage))


def shown(stage: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """What a table has of a stage."""
    return {
        "stage": stage["name"],
        "accuracy": stage["accuracy"],
        "points_lost": round(100 * (baseline["accuracy"] - stage["accuracy"]), 2),
        "size_mb": round(stage["size_bytes"] / 1e6, 3),
        "macs": stage["macs"],
        "seconds": stage["seconds"],
        "notes": stage["notes"],
    }


def timed(files: dict[str, Path], single: list[np.ndarray]) -> dict[str, dict[str, Any]]:
    """p50 in ms of each file at batch 1 on one thread, and how much faster than the first with its 95 % interval."""
    sessions = {name: open_onnx(path) for name, path in files.items()}
    times = time_interleaved({name: (lambda s=s: s.run(*single)) for name, s in sessions.items()}, min_seconds=5)
    first = next(iter(times.values()))
    return {
        name: {
            "ms_p50": round(float(np.median(samples)), 4),
            "speedup": [round(value, 3) for value in ratio_with_interval(first, samples)],
        }
        for name, samples in times.items()
    }


if __name__ == "__main__":
    main()
