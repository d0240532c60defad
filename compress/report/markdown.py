"""`report.md`: the table and what belongs to it, for people and for pull requests."""

from typing import Any

from compress.report.text import COLUMNS, float_layers, headline, row
from compress.tables import markdown_table

PERCENTILES = ("p50 ms", "p90 ms", "p99 ms")
BENCHMARK_COLUMNS = ("file", "runtime", "batch", "threads", *PERCENTILES, "samples/s", "peak MB", "faster", "interval")

TRIAL_COLUMNS = ("tried, in float", "validation %", "points lost", "p50 ms", "more ms than without")


def to_markdown(report: dict[str, Any]) -> str:
    """The report as Markdown: headline, table, notes of each stage, further runtimes, machine."""
    environment = report["environment"]
    shapes = ", ".join("x".join(map(str, shape)) for shape in report["input_shape"])
    lines = [f"# {report['model']}", ""]
    lines += [f"- {line}" for line in headline(report)]
    lines += [f"- input {shapes}, data {report['data'] or 'none'}, seed {report['seed']}", ""]
    lines += [*markdown_table(COLUMNS, [row(stage) for stage in report["stages"]]), ""]
    for stage in report["stages"]:
        lines += [f"- {stage['name']}: {note}" for note in stage["notes"]]
    lines += [f"- {line}" for line in float_layers(report)]
    for stage in report["stages"]:
        if "guard" in stage.get("details", {}):
            lines += [
                "",
                *markdown_table(TRIAL_COLUMNS, [trial_row(trial) for trial in stage["details"]["guard"]["trials"]]),
                "",
            ]
    parity = report["parity"]
    lines += [
        f"- parity on {parity['samples']} inputs ({parity['on']}): equal top-1 {parity['top1_agreement']:.4f}, "
        f"{parity['ties']} ties left out, largest relative error {parity['max_rel_error']:.3g}",
        "",
    ]
    if report["benchmarks"]:
        lines += [*markdown_table(BENCHMARK_COLUMNS, [benchmark_row(entry) for entry in report["benchmarks"]]), ""]
    if report["fp16"]:
        half = report["fp16"]
        agreement = f"equal top-1 {half['parity']['top1_agreement']:.4f}"
        lines += [f"- half precision: {half['file']}, {half['size_bytes'] / 1e6:.2f} MB, {agreement}", ""]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines += [
        f"Measured on {environment['cpu']} ({', '.join(environment['isa_flags']) or 'unknown instruction sets'}), "
        f"{environment['cores']} cores, GPU {environment['gpu'] or 'none'}; Python {environment['python']}, {versions}. "
        f"Latency in the first table is of single calls at batch 1, threads: {environment['threads']}; size is of the ONNX "
        "file, in 10^6 bytes; MACs are multiply-adds of convolutions and matrix products.",
        "",
    ]
    return "\n".join(lines)


def trial_row(trial: dict[str, Any]) -> tuple[str, ...]:
    """One network that a search within a bound tried."""
    score, drop = f"{100 * trial['score']:.2f}", f"{100 * trial['drop']:.2f}"
    return (", ".join(trial["in_float"]) or "none", score, drop, f"{trial['latency_ms']:.3f}", f"{trial['extra_ms']:.3f}")


def benchmark_row(entry: dict[str, Any]) -> tuple[str, ...]:
    """One measured (file, runtime) as texts."""
    latency, memory = entry["latency_ms"], entry["peak_memory_bytes"]
    return (
        entry["file"],
        latency["runtime"],
        str(latency["batch"]),
        str(latency["threads"]),
        f"{latency['p50']:.3f}",
        f"{latency['p90']:.3f}",
        f"{latency['p99']:.3f}",
        f"{entry['throughput']:.0f}",
        "-" if memory is None else f"{memory / 1e6:.1f}",
        f"{entry['speedup']:.2f}x",
        f"{entry['speedup_interval'][0]:.2f} to {entry['speedup_interval'][1]:.2f}",
    )
