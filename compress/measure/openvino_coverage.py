"""How much of a network OpenVINO really computes in integers, counted in the graph that it executes."""

from collections.abc import Mapping
from pathlib import Path

import onnx

from compress.measure.coverage import Coverage, operators_of
from compress.measure.runtimes import compiled_by_openvino

INTEGERS = ("u8", "i8")


def openvino_coverage(path: Path | str, reasons: Mapping[str, str] | None = None) -> Coverage:
    """Count convolutions, linear layers, products and additions that OpenVINO's CPU plugin executes in 8-bit integers.

    Args:
        reasons: as for `integer_coverage`.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    precisions = executed_precisions(path)
    for node in graph.node:  # the last one has the name of the output there
        precisions.setdefault(node.name, precisions.get(node.output[0], "float"))
    counts, left = {}, []
    for kind, nodes in operators_of(graph).items():
        names = [node.name for node in nodes]
        floats = [name for name in names if precisions.get(name) not in INTEGERS]
        counts[kind] = (len(names) - len(floats), len(names))
        for name in floats:
            left.append((name, (reasons or {}).get(name) or f"OpenVINO computes in {precisions[name]}"))
    counts["embedding"] = (0, 0)  # rows are fetched as they are stored, without a kernel of their own
    done = {name for name, precision in precisions.items() if precision in INTEGERS}
    left += [(name, reason) for name, reason in (reasons or {}).items() if name not in dict(left) and name not in done]
    return Coverage(counts, tuple(left))


def executed_precisions(path: Path | str) -> dict[str, str]:
    """Node of the file -> the precision, such as `u8` or `bf16`, in which the operator that it became part of is executed."""
    found = {}
    for operator in compiled_by_openvino(path, 1).get_runtime_model().get_ordered_ops():
        info = operator.get_rt_info()
        kind, merged, precision = (info[key].astype(str) for key in ("layerType", "originalLayersNames", "runtimePrecision"))
        if kind != "Output":
            # `head/WithoutBiases` is what is left of `head` without its bias.
            found.update(dict.fromkeys((name.split("/")[0] for name in merged.split(",")), precision))
    return found
