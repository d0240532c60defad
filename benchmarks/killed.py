"""Runs that are killed with SIGKILL at random moments, and resumed: the numbers must be those of the run that was not.

    python benchmarks/killed.py --times 20 --result FILE

A tiny network is pruned, distilled, quantized, exported and reported; training takes most of the time. After each kill no file
with its final name may be torn, and the epochs that are done again are counted.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml
from safetensors.torch import load_file

from compress.files import write_atomically
from compress.measure import describe_environment
from compress.training.state import read_state

EPOCHS = 150
SCRIPT = """
import sys
import compress
from compress.passes.distill import Distill
from compress.passes.int8 import Int8
from compress.passes.prune_channels import PruneChannels
from compress.testing import tiny_model, tiny_task
distill = Distill(epochs=int(sys.argv[2]), lr=0.02, losses={"kd": 0.9, "ce": 0.1, "hint": 1.0})
passes = [PruneChannels(0.25, round_to=4), distill, Int8(keep_slow=True)]
timing = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}
compress.run(tiny_model(), tiny_task(), passes, out=sys.argv[1], resume=True, timing=timing)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        begun = time.perf_counter()
        start(whole).wait()
        seconds = time.perf_counter() - begun
        wanted = numbers(whole)
        number = finished = 0
        while len(rows) < options.times:
            number += 1
            folder = Path(scratch) / str(number)
            process = start(folder)
            time.sleep(moments.uniform(0.3, 1.0) * seconds)
            process.kill()
            process.wait()
            state, torn = where(folder), torn_files(folder)
            if state == "finished":  # too late: not a kill
                finished += 1
                continue
            if start(folder).wait() != 0:
                raise SystemExit(f"{folder} could not be resumed, killed at: {state}")
            rows.append({"killed_at": state, "torn_files": torn, "equal": numbers(folder) == wanted})
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": "python benchmarks/killed.py " + " ".join(sys.argv[1:]),
        "environment": describe_environment(torch.get_num_threads()),
        "seconds_of_a_run": round(seconds, 2),
        "kills_that_came_too_late": finished,
        "equal": sum(row["equal"] for row in rows),
        "torn": sum(bool(row["torn_files"]) for row in rows),
        "rows": rows,
    }
    write_atomically(options.result, (json.dumps(result, indent=1) + "\n").encode())


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The run, from the start or from where it was killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(EPOCHS)], env=environment, stderr=subprocess.DEVNULL)


def numbers(folder: Path) -> list[Any]:
    """What must be equal: every number but times, every note but where a training was resumed, and every byte of the model."""
    report = json.loads((folder / "report.json").read_text())
    stages = []
    for stage in report["stages"]:
        kept = {key: value for key, value in stage.items() if key not in ("seconds", "latency_ms", "details")}
        kept["notes"] = [re.sub(r", resumed behind epoch \d+", "", note) for note in kept["notes"]]
        losses = [epoch["loss"] for epoch in stage["details"].get("training", [])]
        stages.append([kept, losses])
    files = [(folder / name).read_bytes() for name in ("model.onnx", "model.safetensors", "manifest.json")]
    return [stages, report["parity"], report["integer_coverage"], files]


def where(folder: Path) -> str:
    """How far the run had come: its last stage, and the epochs of a training there."""
    if (folder / "report.json").exists():
        return "finished"
    stages = sorted(folder.glob(".stages/*"))
    if not stages:
        return "before the first stage"
    state = read_state(stages[-1] / "training.pt")
    epochs = f", after {len(state['epochs'])} of {EPOCHS} epochs" if state is not None else ""
    return stages[-1].name + epochs + (", done" if (stages[-1] / "record.json").exists() else "")


def torn_files(folder: Path) -> list[str]:
    """Files with a final name that cannot be read."""
    readers = {".json": lambda path: json.loads(path.read_text()), ".yaml": lambda path: yaml.safe_load(path.read_text())}
    readers |= {".onnx": lambda path: onnx.checker.check_model(path), ".safetensors": load_file}
    torn = []
    for path in folder.rglob("*"):
        if path.suffix in readers:
            try:
                readers[path.suffix](path)
            except Exception:  # whatever a reader raises
                torn.append(str(path.relative_to(folder)))
        elif path.suffix == ".pt" and read_state(path) is None:
            torn.append(str(path.relative_to(folder)))
    return torn


if __name__ == "__main__":
    main()
