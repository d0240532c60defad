"""Where a file's time goes on ONNX Runtime, by layer of the model."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from compress.measure.coverage import layer_name, optimized_graph
from compress.measure.runtimes import session_options

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "Transpose")
RUNS, WARM_UP = 15, 3


def layer_times(path: Path, inputs: Sequence[np.ndarray], layers: Sequence[str], threads: int = 1) -> dict[str, float]:
    """Milliseconds, the median over some runs, that each of `layers` takes in the file.

    Conversions between integers and floats (and of the memory layout) are charged to the layer that they stand beside,
    half to each where they stand between two: they are there for its sake. Layers that the file does not name are left out.

    Args:
        inputs: one array for each input of the file.
        layers: names of convolutions and linear layers, as modules have them.
    """
    graph = optimized_graph(path).graph
    beside = _charged(graph, set(layers))
    times: dict[str, list[float]] = {layer: [0.0] * RUNS for owners in beside.values() for layer in owners}
    for run, events in enumerate(_profile(path, inputs, threads)):
        for name, milliseconds in events:
            owners = beside.get(name, ())
            for layer in owners:
                times[layer][run] += milliseconds / len(owners)
    return {layer: float(np.median(values)) for layer, values in times.items()}


def _charged(graph: onnx.GraphProto, layers: set[str]) -> dict[str, list[str]]:
    """Node name -> the layers that its time is charged to."""
    producer = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def beside(node: onnx.NodeProto) -> list[str]:
        if layer_name(node) in layers and node.op_type not in CONVERSIONS:
            return [layer_name(node)]
        if node.op_type not in CONVERSIONS:
            return []
        neighbours = [producer.get(node.input[0]), *(reader for name in node.output for reader in readers.get(name, ()))]
        found = [layer_name(other) for other in neighbours if other is not None and other.op_type not in CONVERSIONS]
        return list(dict.fromkeys(name for name in found if name in layers))

    return {node.name: beside(node) for node in graph.node}


def _profile(path: Path, inputs: Sequence[np.ndarray], threads: int) -> list[list[tuple[str, float]]]:
    """Of each run, the nodes' names and milliseconds."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = dict(zip([i.name for i in session.get_inputs()], inputs, strict=True))
        for _ in range(WARM_UP + RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    runs: list[list[tuple[str, float]]] = []
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["name"] == "model_run":
            runs.append([])  # an event of the whole run begins before those of its nodes
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs[-1].append((event["name"].removesuffix("_kernel_time"), event["dur"] / 1000))
    return runs[WARM_UP:]
