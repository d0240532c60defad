"""Train the zoo's bundled weights from scratch and write them as fp16 safetensors.

    python benchmarks/train_zoo.py --data FOLDER --out compress/models/resnet18-fashion-mnist.safetensors

FOLDER holds the four idx files of Fashion-MNIST (Debian package `dataset-fashion-mnist`, or `fashion-mnist-full`).
All 60,000 training images are used; accuracy is that of the last epoch on the 10,000 test images.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from compress.data.fashion_mnist import BUNDLED, read_folder
from compress.data.images import Batches, accuracy_of
from compress.data.preprocess import Preprocess
from compress.models.resnet import resnet18
from compress.outputs import predictor
from compress.progress import watch
from compress.training import Settings, fit

PREPROCESS = Preprocess(size=(48, 48), mean=(0.286,) * 3, std=(0.353,) * 3)


def fp16_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in half precision; running statistics stay in float32, since a variance can leave fp16's range."""
    return {
        name: (value if "running_" in name or not value.is_floating_point() else value.half()).contiguous()
        for name, value in state.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=BUNDLED)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, help="write the figures here as JSON")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--limit-eval", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    data = read_folder(options.data).limited(options.limit_train, options.limit_eval)
    batches = Batches(PREPROCESS.resized(data.train_images), data.train_labels, PREPROCESS, 128, flips=True, pixels=4)
    evaluate = accuracy_of(PREPROCESS.resized(data.test_images), data.test_labels, PREPROCESS, "evaluate")
    model = resnet18(len(data.classes))
    begun = time.perf_counter()

    def show(what: str, done: int, total: int | None, note: str) -> None:
        if what == "train" and done % 100 == 0:
            print(f"{time.perf_counter() - begun:6.0f} s  {what} {done}/{total}  {note}", flush=True)

    def loss(logits: torch.Tensor, inputs: tuple[torch.Tensor, ...], target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, target)

    with watch(show):
        fitted = fit(model, lambda: batches, loss, Settings(epochs=options.epochs, lr=0.1))
    save_file(fp16_weights(model.state_dict()), options.out)
    result = {
        "command": "python benchmarks/train_zoo.py " + " ".join(sys.argv[1:]),
        "accuracy": evaluate(predictor(model)),
        "test_images": len(data.test_images),
        "train_images": len(data.train_images),
        "epochs": options.epochs,
        "steps": fitted.steps,
        "losses": fitted.losses,
        "precision": fitted.precision,
        "seconds": round(fitted.seconds, 1),
        "seed": options.seed,
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))
    if options.result:
        options.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
