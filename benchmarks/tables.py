"""The page of all results: a table of each file in results/, with the command, the day and the machine.

python benchmarks/tables.py
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.report.text import stage_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs/benchmarks.md"
# What a result is about. One that is not here has its file's name as title.
TITLES = {
    "demo": "The demo: ResNet-18, Fashion-MNIST",
    "main_job": "The demo with two seeds, and at 224x224",
    "quantization": "int8 beside ONNX Runtime's tool and NNCF",
    "amx": "Integer convolutions without and with AMX",
    "pruning-resnet56": "Pruning criteria: ResNet-56, CIFAR-10",
    "distillation": "Losses of distillation: ResNet-20 from ResNet-56, CIFAR-10",
    "ptq_cost": "Seconds and memory of quantizing: ResNet-18 at 224x224",
    "chain-resnet18": "The whole sequence: ResNet-18, Fashion-MNIST",
    "chain-resnet56": "The whole sequence: ResNet-56, CIFAR-10",
    "killed": "Runs that are killed and resumed",
    "training_loop": "The training loop beside a bare one",
    "train_zoo": "The bundled ResNet-18",
    "conformance": "Architectures that are pruned as a whole",
}
ABOUT = {"command", "commands", "environment", "date", "rows", "stages"}  # what is not a figure by itself
Result = dict[str, Any]


def main() -> None:
    PAGE.write_text(page())


def page() -> str:
    """Markdown, in the order of `TITLES`, then by name."""
    paths = {path.stem: path for path in sorted(RESULTS.glob("*.json"))}
    order = [*(name for name in TITLES if name in paths), *(name for name in paths if name not in TITLES)]
    parts = [
        "# Benchmarks",
        "Written by `python benchmarks/tables.py` from `benchmarks/results/*.json`, which the commands below wrote. What is not",
        "in percent is a fraction. Latency is of single inputs on one thread where nothing else is said; brackets hold 95 %",
        "intervals of a ratio. Some commands add rows to those of earlier runs: command, day and machine are of the last.",
    ]
    return "\n".join([parts[0], "", *parts[1:], "", *(section(name, json.loads(paths[name].read_text())) for name in order)])


def section(name: str, result: Result) -> str:
    """Title, command, machine and tables of one result."""
    commands = result.get("commands") or [result["command"]]
    parts = [f"## {TITLES.get(name, name)}", "\n".join(["```text", *commands, "```"]), machine(result)]
    return "\n\n".join([*parts, *BODIES.get(name, plain)(result)]) + "\n"


def machine(result: Result) -> str:
    """When and on what it was measured; says so where that was not written down."""
    date = result.get("date") or result.get("environment", {}).get("date")
    when = f"Measured on {date}" if date else "Day not recorded"
    if "environment" not in result:
        return f"{when}; machine not recorded, torch {result['torch']}."
    here = result["environment"]
    versions = ", ".join(f"{package} {here['versions'][package]}" for package in ("torch", "onnxruntime"))
    processor = f"{here['cpu']} ({', '.join(here['isa_flags'])}), {here['cores']} core{'s' * (here['cores'] != 1)}"
    return f"{when} on {processor}, GPU: {here['gpu'] or 'none'}; {versions}."


def plain(result: Result) -> list[str]:
    """The figures of a result, and its rows, as they are."""
    facts = [(key, shown(value)) for key, value in flat(result).items() if key not in ABOUT]
    rows = [flat(row) for row in result.get("rows") or result.get("stages") or []]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    found = [table(("figure", "value"), facts)] if facts else []
    return found + ([table(columns, [[shown(row.get(key)) for key in columns] for row in rows])] if rows else [])


def flat(values: Result) -> Result:
    """Scalars by name, those of mappings by both names; texts of several words are notes, and lists series, for the file."""
    found: Result = {}
    for key, value in values.items():
        if isinstance(value, dict) and key not in ABOUT:
            found |= {f"{key} {inner}": scalar for inner, scalar in flat(value).items()}
        elif not isinstance(value, list | dict) and not (isinstance(value, str) and " " in value):
            found[key] = value
    return found


def shown(value: Any) -> str:
    """A cell: four digits of a fraction, all of a whole number."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def demo(report: Result) -> list[str]:
    header, rows = stage_table(report)
    return [table(header, rows), f"Side by side at the end: {ratio(report['benchmarks'][1])} faster on one thread."]


def main_job(result: Result) -> list[str]:
    header = (
        "seed",
        "seconds",
        "accuracy %: float",
        "int8",
        "one thread",
        "two threads",
        "224x224",
        "smaller",
        "inputs compared",
    )
    rows = [
        (
            str(run["seed"]),
            f"{run['seconds']:.0f}",
            f"{100 * run['accuracy']['baseline']:.2f}",
            f"{100 * run['accuracy']['int8']:.2f}",
            *(ratio(entry) for entry in (run["benchmarks"][1], run["benchmarks"][3], run["at 224x224"][1])),
            f"{run['summary']['size_ratio']:.2f}x",
            str(run["parity"]["samples"]),
        )
        for run in result["runs"]
    ]
    return [table(header, rows), f"Memory of the process: {result['peak_memory_bytes'] / 1e9:.2f} GB at most."]


def ratio(entry: Result) -> str:
    """How much faster a file is than the baseline beside it."""
    low, high = entry["speedup_interval"]
    return f"{entry['speedup']:.2f}x ({low:.2f} to {high:.2f})"


def quantization(result: Result) -> list[str]:
    header = (
        "model",
        "method",
        "samples",
        "accuracy %",
        "points lost",
        "divergence",
        "MB",
        "integers",
        "ms float",
        "ms",
        "ms OpenVINO",
    )
    rows = []
    for row in result["rows"]:
        times = row.get("latency", {}).get("float over this", [None] * 5)
        rows.append(
            (
                row["model"],
                row["method"],
                str(row["samples"]),
                f"{100 * row['accuracy']:.2f}",
                f"{row['drop_points']:.2f} ± {row['drop_standard_error']:.2f}",
                f"{row['kl_divergence']:.4f}",
                f"{row['size_bytes'] / 1e6:.2f}",
                row.get("integers", ""),
                *map(shown, times[3:]),
                shown(row.get("openvino p50 ms", {}).get("this")),
            )
        )
    peers = [f"{name}: {settings}." for name, settings in result["peers"].items()]
    return [table(header, rows), "Points lost with their standard error. " + " ".join(peers)]


def amx(result: Result) -> list[str]:
    tables = []
    for rows in (result["networks"], result["shapes"]):
        columns = list(rows[0])
        cells = [
            [" ".join(map(str, value)) if isinstance(value, list) else shown(value) for value in row.values()] for row in rows
        ]
        tables.append(table(columns, cells))
    return [
        tables[0],
        "Shapes of weights, (outputs, inputs, height, width), the default kernel's time over that with AMX:",
        tables[1],
    ]


def conformance(result: Result) -> list[str]:
    rows = result["rows"]
    others = Counter(row["torch-pruning"].partition(" (")[0] for row in rows)
    passed = sum(row["passed"] for row in rows)
    listed = [("ours", f"{passed} of {len(rows)} passed")]
    listed.append(
        (
            f"torch-pruning {result['environment']['versions']['torch-pruning']}",
            ", ".join(f"{n} {what}" for what, n in others.items()),
        )
    )
    return [table(("library", "what it did"), listed), "Ours, one by one: [architectures](conformance.md)."]


BODIES: dict[str, Callable[[Result], list[str]]] = {
    "demo": demo,
    "main_job": main_job,
    "quantization": quantization,
    "amx": amx,
    "conformance": conformance,
}


def table(header: Any, rows: Any) -> str:
    """In Markdown; all columns but the first to the right."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ruler, *rows))


if __name__ == "__main__":
    main()
