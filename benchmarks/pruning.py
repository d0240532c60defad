"""Pruning criteria beside each other on CIFAR-10, one row at a time; an interrupted run goes on where it stopped.

    python benchmarks/pruning.py --weights resnet56-4bfd9763.th --data npz:cifar10.npz --result FILE

Each row: ResNet-56 cut to a share of its MACs by one criterion; accuracy on the 10,000 test images right after, after batch
norm re-estimation, and after a recovery on training images (last epoch). Random pruning, the baseline, with three seeds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compress import zoo
from compress.artifact import Artifact
from compress.data.images import Batches
from compress.data.npz import read_npz
from compress.files import write_atomically
from compress.measure import count_macs, count_parameters, describe_environment
from compress.outputs import predictor
from compress.passes.base import Pass
from compress.passes.prune_channels import PruneChannels
from compress.passes.reestimate_bn import ReestimateBatchNorm
from compress.pipeline import transformed
from compress.pruning.criteria import CRITERIA
from compress.recipe import make_pass
from compress.sources.source import Source
from compress.task import Task

RANDOM_SEEDS = (0, 1, 2)
ALL = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--macs", type=float, nargs="+", default=[1 / 2.1, 1 / 2.5], help="shares of the MACs that are left")
    parser.add_argument("--criteria", nargs="+", default=sorted(CRITERIA, key=lambda name: (name != "random", name)))
    parser.add_argument("--ranking", nargs="+", default=["local"])
    parser.add_argument("--train", type=int, default=10_000, help=f"training images of a recovery epoch; {ALL}: all")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--losses", help="of the pass distill instead of finetune's, such as kd=0.9,ce=0.1,hint=270")
    options = parser.parse_args()

    source = zoo.load(options.model, options.weights)
    task = load(source, options.data, options.train)
    result = json.loads(options.result.read_text()) if options.result.exists() else {"rows": []}
    command = "python benchmarks/pruning.py " + " ".join(sys.argv[1:])
    result["commands"] = [*(other for other in result.get("commands", []) if other != command), command]
    result["environment"] = describe_environment(torch.get_num_threads())
    if "baseline" not in result:
        model = source.model
        costs = {"macs": count_macs(model, task.example_inputs), "params": count_parameters(model)}
        result["baseline"] = {"accuracy": accuracy(task, model), **costs}
        save(options.result, result)
    for share in options.macs:
        for ranking in options.ranking:
            for criterion in options.criteria:
                for seed in RANDOM_SEEDS if criterion == "random" else (0,):
                    key = {"macs_target": round(share, 4), "ranking": ranking, "criterion": criterion, "seed": seed}
                    key |= {"epochs": options.epochs, "train_images": options.train, "lr": options.lr}
                    key |= {"losses": options.losses} if options.losses else {}
                    if any(row.items() >= key.items() and row.get("losses") == options.losses for row in result["rows"]):
                        continue
                    result["rows"].append(key | row(source.model, task, share, ranking, criterion, seed, options))
                    print(json.dumps(result["rows"][-1]), flush=True)
                    save(options.result, result)


def load(source: Source, data: str, train: int) -> Task:
    """The task with so many training images; with all of them where none is kept for validation, by which nothing is chosen."""
    if train < ALL:
        return zoo.load_task(source, data, train * 10 // 9 + 1)  # a tenth is kept for validation
    images, preprocess = read_npz(Path(data.removeprefix("npz:")), None, None), source.preprocess
    assert preprocess is not None and len(images.train_images) == ALL
    pixels = round(images.shift * preprocess.size[1])
    batches = Batches(preprocess.resized(images.train_images), images.train_labels, preprocess, 128, images.flips, pixels)
    return replace(zoo.load_task(source, data), train=lambda: batches, validate=None)


def row(
    model: nn.Module, task: Task, share: float, ranking: str, criterion: str, seed: int, options: argparse.Namespace
) -> dict[str, object]:
    """One criterion, from the original weights to the end of its recovery."""
    begun = time.perf_counter()
    artifact = Artifact.start(model, task)
    prune = PruneChannels(target=f"macs={share}", criterion=criterion, ranking=ranking, round_to=1, seed=seed)  # type: ignore[arg-type]
    found: dict[str, object] = {}

    def stage(pass_: Pass, name: str) -> None:
        nonlocal artifact
        artifact = transformed(
            pass_, replace(artifact, notes=[]), seed, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        )
        found[name] = accuracy(task, artifact.model)
        found[f"{name} notes"] = artifact.notes[-1:] if name == "recovered" else None

    stage(prune, "pruned")
    found |= {"macs": count_macs(artifact.model, task.example_inputs), "params": count_parameters(artifact.model)}
    stage(ReestimateBatchNorm(), "re-estimated")
    if options.epochs:
        name, losses = ("distill", {"losses": options.losses}) if options.losses else ("finetune", {})
        stage(make_pass(name, {"epochs": options.epochs, "lr": options.lr, **losses}), "recovered")
    return {name: value for name, value in found.items() if value is not None} | {
        "seconds": round(time.perf_counter() - begun, 1)
    }


def accuracy(task: Task, model: nn.Module) -> float:
    """Share of the test images that are classified right, by torch."""
    evaluate: Callable[..., float] | None = task.evaluate
    assert evaluate is not None
    return round(float(evaluate(predictor(model))), 4)


def save(path: Path, result: dict[str, object]) -> None:
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
