"""What the loop costs beside a bare one: the same network, batches and optimizer, epochs of both taken in turn.

    python benchmarks/training_loop.py --result FILE

Ratios are of samples per second, ours over the bare loop's, and of the process's memory beyond what stood before; each kind of
epoch runs in a process of its own where memory is measured.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from compress.files import write_atomically
from compress.measure import describe_environment
from compress.models.cifar_resnet import resnet20
from compress.training import Settings, autocast_dtype, channels_last_, fit

BATCH, LR = 128, 0.1


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same random images each time: what is compared is the loop, not what it learns."""
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    return [(images, torch.randint(10, (BATCH,))) for _ in range(count)]


def bare(model: nn.Module, data: list[tuple[torch.Tensor, torch.Tensor]], epochs: int) -> None:
    """What one would write by hand."""
    dtype = autocast_dtype(torch.device("cpu"))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=0.95, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * len(data))
    model.train()
    for _ in range(epochs):
        for x, y in data:
            with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()


def ours(model: nn.Module, data: list[tuple[torch.Tensor, torch.Tensor]], epochs: int) -> None:
    """The loop of this package."""
    fit(model, lambda: data, lambda logits, inputs, target: F.cross_entropy(logits, target), Settings(epochs=epochs, lr=LR))


KINDS = {"bare": bare, "ours": ours}


def peak(kind: str, steps: int, answer: Any) -> None:
    """Send the bytes of memory, at its highest, that an epoch adds to the process."""
    data, model = batches(steps), channels_last_(resnet20())
    before = highest()
    KINDS[kind](model, data, 1)
    answer.send(highest() - before)


def highest() -> int:
    """Bytes of memory that this process had at most; the figure of `getrusage` would be inherited from the parent."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    data = batches(options.steps)
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(options.rounds + 1):
        for kind in sorted(KINDS, reverse=bool(number % 2)):
            model = channels_last_(resnet20())
            begun = time.perf_counter()
            KINDS[kind](model, data, 1)
            if number:  # the first round warms up
                rates[kind].append(BATCH * options.steps / (time.perf_counter() - begun))
    ratios = [own / other for own, other in zip(rates["ours"], rates["bare"], strict=True)]
    context, memory = multiprocessing.get_context("spawn"), {}
    for kind in KINDS:
        receive, answer = context.Pipe()
        process = context.Process(target=peak, args=(kind, options.steps, answer))
        process.start()
        memory[kind] = receive.recv()
        process.join()
    result = {
        "command": "python benchmarks/training_loop.py " + " ".join(sys.argv[1:]),
        "environment": describe_environment(torch.get_num_threads()),
        "samples_per_second": {kind: [round(rate, 1) for rate in found] for kind, found in rates.items()},
        "throughput_ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "memory_bytes": memory,
        "memory_ratio": memory["ours"] / memory["bare"],
    }
    write_atomically(options.result, (json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps(result["throughput_ratio"]), json.dumps(result["memory_ratio"]))


if __name__ == "__main__":
    main()
