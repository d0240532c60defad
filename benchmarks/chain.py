"""The whole sequence, one row per stage: original, pruned, re-estimated, distilled, int8; and QAT in place of int8.

    python benchmarks/chain.py resnet18 --result FILE
    python benchmarks/chain.py resnet56 --weights FILE --data npz:cifar10.npz --result FILE

ResNet-18 on the bundled images loses half of its channels; ResNet-56 on CIFAR-10 keeps 1/2.1 of its MACs. Each file is timed and
scored as in `compress run`, which this calls, with a control: the same recovery without a teacher.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from compress.files import write_atomically
from compress.recipe import Recipe, Step
from compress.run import Options, run_recipe

CUTS: dict[str, dict[str, Any]] = {
    "resnet18": {"ratio": 0.5},
    "resnet56": {"target": f"macs={1 / 2.1:.4f}", "ranking": "global", "round_to": 1},
}
INTEGERS: tuple[Step, ...] = (("int8", {}), ("qat", {"epochs": 1}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=CUTS)
    parser.add_argument("--weights")
    parser.add_argument("--data")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--losses", default="kd=0.9,ce=0.1,hint=30")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()
    distill = {"epochs": options.epochs, "lr": options.lr, "losses": options.losses, "control": True}
    recovered: tuple[Step, ...] = (("prune_channels", CUTS[options.model]), ("reestimate_bn", {}), ("distill", distill))
    reports = []
    with tempfile.TemporaryDirectory() as scratch:
        for integers in INTEGERS:
            recipe = Recipe(
                model=options.model,
                weights=options.weights,
                data=options.data,
                seed=options.seed,
                limit_train=options.limit_train,
                passes=(*recovered, integers),
            )
            reports.append(run_recipe(recipe, Options(out=Path(scratch) / integers[0])).report)
    first, second = reports
    result = {
        "command": "python benchmarks/chain.py " + " ".join(sys.argv[1:]),
        "environment": first["environment"],
        "stages": [shown(stage, first["stages"][0]) for stage in [*first["stages"], second["stages"][-1]]],
        "speedup": {report["stages"][-1]["name"]: report["summary"]["speedup"] for report in reports},
    }
    write_atomically(options.result, (json.dumps(result, indent=1) + "\n").encode())
    for stage in result["stages"]:
        print(json.dumps(stage))


def shown(stage: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """What a table has of a stage; the latency of each stage was measured by itself, `speedup` side by side."""
    return {
        "stage": stage["name"],
        "accuracy": stage["accuracy"],
        "points_lost": round(100 * (baseline["accuracy"] - stage["accuracy"]), 2),
        "size_mb": round(stage["size_bytes"] / 1e6, 3),
        "ms_p50": stage["latency_ms"]["p50"],
        "macs": stage["macs"],
        "seconds": stage["seconds"],
    }


if __name__ == "__main__":
    main()
