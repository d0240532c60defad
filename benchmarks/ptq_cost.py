"""Seconds and memory of post-training quantization: ResNet-18 at 224x224, ours and NNCF's, each in a process of its own.

    pip install nncf==3.4.0 openvino==2026.4.1
    python benchmarks/ptq_cost.py --samples 300 3000 --result benchmarks/results/ptq_cost.json

From the float network, whose ONNX file is there for both, to the written int8 file, on all cores. Ours times the layers, too,
and leaves those in float that integers make slower; `ours, untimed` is without (`keep_slow`). Pixels are random: only the cost
counts.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from compress.artifact import Artifact
from compress.export import export_onnx
from compress.files import write_atomically
from compress.measure import describe_environment
from compress.measure.environment import available_cores
from compress.models.resnet import resnet18
from compress.passes.int8 import Int8
from compress.pipeline import transformed
from compress.task import Task

BATCH = 20
TOOLS = ("ours", "ours, untimed", "nncf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[300, 3000])
    parser.add_argument("--result", type=Path)
    parser.add_argument("--alone", choices=TOOLS, help="measure one tool, in this process")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(cost(options.alone, options.samples[0])))
        return
    rows = []
    for samples in options.samples:
        for tool in TOOLS:
            command = [sys.executable, __file__, "--alone", tool, "--samples", str(samples)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"tool": tool, "samples": samples, **json.loads(done.stdout.splitlines()[-1])})
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": "python benchmarks/ptq_cost.py " + " ".join(sys.argv[1:]),
        "environment": describe_environment(available_cores()),
        "rows": rows,
    }
    if options.result:
        write_atomically(options.result, (json.dumps(result, indent=1) + "\n").encode())


def batches(samples: int) -> Iterator[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, samples, BATCH):
        yield (torch.randn(min(BATCH, samples - start), 3, 224, 224, generator=generator),)


def cost(tool: str, samples: int) -> dict[str, float]:
    torch.set_num_threads(available_cores())
    torch.manual_seed(0)
    task = Task((torch.randn(2, 3, 224, 224),), calibration=lambda: batches(samples))
    artifact = Artifact.start(resnet18(num_classes=1000), task)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        export_onnx(artifact.model, task.example_inputs, source, artifact.signature)
        begun = time.perf_counter()
        if tool == "nncf":
            from peers import quantize_with_nncf

            quantize_with_nncf(source, target, lambda: ((x.numpy(),) for (x,) in batches(samples)))
        else:
            pass_ = Int8(keep_slow=tool != "ours")
            done = transformed(pass_, replace(artifact, file=source, progress=Path(folder)), 0, torch.device("cpu"))
            if done.file is None:
                export_onnx(done.model, task.example_inputs, target, artifact.signature)
        seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": round(seconds, 1), "peak_memory_bytes": peak}


if __name__ == "__main__":
    main()
