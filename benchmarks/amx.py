"""Integer convolutions as ONNX Runtime computes them by default, over the same ones stored for the matrix unit.

    python benchmarks/amx.py --result benchmarks/results/amx.json

On a processor with AMX. A row for each shape, of the two kernels' times by the runtime's own profile, and for each number of
threads; then whole networks, timed side by side. `chosen` says which of the two the pass int8 takes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from compress.artifact import Artifact
from compress.export import export_onnx
from compress.files import write_atomically
from compress.measure import describe_environment, open_onnx, time_interleaved
from compress.measure.environment import available_cores, has_amx
from compress.measure.latency import ratio_with_interval
from compress.measure.profile import layer_times
from compress.models.resnet import resnet18
from compress.onnx_rewrites.amx import gains
from compress.passes.int8 import Int8
from compress.passes.prune_channels import PruneChannels
from compress.pipeline import transformed
from compress.task import Task

# Kernel -> inputs, outputs, pixels a side.
SHAPES = {
    1: ((64, 128, 192, 256, 384, 512), (32, 64, 128, 256), (14, 28)),
    3: ((16, 32, 48, 64, 96, 128), (32, 64, 128, 256), (14, 28)),
    5: ((8, 16, 32), (32, 64, 128), (14, 28)),
}
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    if not has_amx():
        sys.exit("this processor has no AMX; nothing here would gain")
    every_threads = sorted({1, available_cores()})
    result: dict[str, Any] = {
        "command": "python benchmarks/amx.py " + " ".join(sys.argv[1:]),
        "environment": describe_environment(1),
        "networks": [row for threads in every_threads for row in networks(threads)],
        "shapes": [],
    }
    for kernel, (every_inputs, every_outputs, sides) in SHAPES.items():
        for inputs in every_inputs:
            for outputs in every_outputs:
                row = shape((outputs, inputs, kernel, kernel), sides, every_threads)
                result["shapes"].append(row)
                print(json.dumps(row), flush=True)
    if options.result:
        write_atomically(options.result, (json.dumps(result, indent=1) + "\n").encode())


def networks(threads: int) -> Iterator[dict[str, Any]]:
    """Networks of random weights in float, and in int8 without and with AMX; milliseconds of single images, p50."""
    for size, ratio in ((224, None), (224, 0.5), (48, 0.5)):
        torch.manual_seed(0)
        images = torch.randn(2, 3, size, size)
        artifact = Artifact.start(resnet18(num_classes=10), Task((images,), calibration=lambda images=images: [(images,)]))
        if ratio is not None:
            artifact = transformed(PruneChannels(ratio), artifact, 0, torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            files = {"float": Path(folder) / "float.onnx"}
            export_onnx(artifact.model, (images,), files["float"], artifact.signature)
            for name, amx in (("default", False), ("amx", True)):
                files[name] = Path(folder) / f"{name}.onnx"
                done = transformed(Int8(amx=amx, keep_slow=True, ranges="minmax"), artifact, 0, torch.device("cpu"))
                export_onnx(done.model, (images,), files[name], artifact.signature)
            sessions = {name: open_onnx(path, threads=threads) for name, path in files.items()}
            x = images[:1].numpy()
            equal = np.array_equal(sessions["default"].run(x)[0], sessions["amx"].run(x)[0])
            times = time_interleaved({name: (lambda s=s, x=x: s.run(x)) for name, s in sessions.items()}, min_seconds=3)
        row = {"network": "resnet18", "pruned": ratio, "pixels": size, "threads": threads, "equal": equal}
        row |= {f"{name} ms": round(float(np.median(values)), 4) for name, values in times.items()}
        row["default over amx"] = [round(value, 3) for value in ratio_with_interval(times["default"], times["amx"])]
        print(json.dumps(row), flush=True)
        yield row


def shape(weight: tuple[int, int, int, int], sides: tuple[int, ...], every_threads: list[int]) -> dict[str, Any]:
    """One convolution: the default kernel's time over that with AMX, for each number of pixels and threads."""
    ratios = {}
    for side in sides:
        x = np.random.default_rng(1).integers(0, 255, (1, weight[1], side, side)).astype(np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / "default.onnx", Path(folder) / "amx.onnx"]
            for path, zero in zip(paths, (0, -1), strict=True):
                onnx.save(convolution(weight, side, zero), path)
            for threads in every_threads:
                best = [min(layer_times(path, [x], ["conv"], threads)["conv"] for _ in range(REPEATS)) for path in paths]
                ratios[f"{side} pixels, {threads} threads"] = round(best[0] / best[1], 2)
    return {"weight": list(weight), "chosen": "amx" if gains(weight, 1) else "default", **ratios}


def convolution(weight: tuple[int, int, int, int], side: int, zero: int) -> onnx.ModelProto:
    """A convolution between integers, stride 1, its weights with this zero point."""
    outputs, inputs, kernel, _ = weight
    codes = np.random.default_rng(0).integers(-127, 128, weight)
    constants = {
        "w": (codes + zero).astype(np.int8),
        "w_scale": np.full(outputs, 0.01, np.float32),
        "w_zero": np.full(outputs, zero, np.int8),
        "bias": np.zeros(outputs, np.int32),
        "bias_scale": np.full(outputs, 0.0002, np.float32),
        "scale": np.float32(0.02),
        "wide": np.float32(0.5),
        "zero": np.uint8(128),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["x_float"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_float"], axis=0),
        helper.make_node("DequantizeLinear", ["bias", "bias_scale"], ["bias_float"], axis=0),
        helper.make_node("Conv", ["x_float", "w_float", "bias_float"], ["sum"], name="conv", pads=[kernel // 2] * 4),
        helper.make_node("QuantizeLinear", ["sum", "wide", "zero"], ["y"]),
    ]
    ends = (
        helper.make_tensor_value_info(name, TensorProto.UINT8, [1, size, side, side])
        for name, size in (("x", inputs), ("y", outputs))
    )
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "conv", *([end] for end in ends), stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


if __name__ == "__main__":
    main()
