"""A student with and without a teacher on CIFAR-10, one row at a time; an interrupted run goes on where it stopped.

    python benchmarks/distillation.py --weights FOLDER --data npz:cifar10.npz --result FILE

Each row: ResNet-20, from its own weights or from scratch, trained towards ResNet-56 by one sum of losses, or on the labels alone
(the control: the same images, steps and seed); accuracy on the 10,000 test images after the last epoch.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from compress import zoo
from compress.artifact import Artifact
from compress.files import write_atomically
from compress.measure import describe_environment
from compress.models.cifar_resnet import resnet20
from compress.outputs import predictor
from compress.passes.distill import Distill
from compress.pipeline import transformed
from compress.recipe import make_pass
from compress.task import Task

FILES = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
LOSSES = {
    "control": "ce=1",
    "kd": "kd=0.9,ce=0.1",
    "dkd": "dkd=1,ce=1",
    "at": "at=20,kd=0.9,ce=0.1",
    "hint": "hint=30,kd=0.9,ce=0.1",
    "rkd": "rkd_distance=25,rkd_angle=50,kd=0.9,ce=0.1",
    "crd": "crd=0.8,kd=0.9,ce=0.1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help=f"folder with {' and '.join(FILES.values())}")
    parser.add_argument("--data", required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["control", "kd", "dkd", "at"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=45_000, help="training images of an epoch")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--scratch", action="store_true", help="begin without the student's own weights")
    options = parser.parse_args()

    student = zoo.load("resnet20", str(options.weights / FILES["resnet20"]))
    teacher = zoo.load("resnet56", str(options.weights / FILES["resnet56"])).model
    task = zoo.load_task(student, options.data, options.train * 10 // 9 + 1)  # a tenth is kept for validation
    result = json.loads(options.result.read_text()) if options.result.exists() else {"rows": []}
    command = "python benchmarks/distillation.py " + " ".join(sys.argv[1:])
    result["commands"] = [*(other for other in result.get("commands", []) if other != command), command]
    result["environment"] = describe_environment(torch.get_num_threads())
    if "before" not in result:
        result["before"] = {"student": accuracy(task, student.model), "teacher": accuracy(task, teacher)}
        save(options.result, result)
    for seed in options.seeds:
        for losses in options.losses:
            key = {"losses": losses, "seed": seed, "scratch": options.scratch, "epochs": options.epochs}
            key |= {"train_images": options.train, "lr": options.lr}
            if any(row.items() >= key.items() for row in result["rows"]):
                continue
            torch.manual_seed(seed)
            model = resnet20() if options.scratch else student.model
            result["rows"].append(key | row(model, task, losses, seed, options))
            print(json.dumps(result["rows"][-1]), flush=True)
            save(options.result, result)


def row(model: torch.nn.Module, task: Task, losses: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One training, from these weights."""
    begun = time.perf_counter()
    given = {"losses": LOSSES[losses], "epochs": options.epochs, "lr": options.lr, "teacher": "resnet56"}
    given["teacher_weights"] = str(options.weights / FILES["resnet56"])
    pass_ = make_pass("distill", given)
    assert isinstance(pass_, Distill)
    artifact = transformed(pass_, Artifact.start(model, task), seed, torch.device("cpu"))
    last = artifact.details["training"][-1]
    return {
        "weights": pass_.losses,
        "accuracy": accuracy(task, artifact.model),
        "steps": last["steps"],
        "samples": last["samples"],
        "waiting": last["waiting"],
        "seconds": round(time.perf_counter() - begun, 1),
        "note": artifact.notes[0],
    }


def accuracy(task: Task, model: torch.nn.Module) -> float:
    """Share of the test images that are classified right, by torch."""
    assert task.evaluate is not None
    return round(float(task.evaluate(predictor(model))), 4)


def save(path: Path, result: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
