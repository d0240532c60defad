"""How long calls of the written files took."""

from typing import Any

from compress.report.html.histogram import histogram
from compress.report.html.parts import figure, grid, paragraph, section, table
from compress.report.markdown import BENCHMARK_COLUMNS, benchmark_row


def latency(report: dict[str, Any]) -> str:
    """The files timed side by side, and the distribution of each one's calls."""
    pictures = []
    for entry in report["benchmarks"]:
        if "histogram" in entry:
            times = entry["latency_ms"]
            threads = f"{times['threads']} thread" + ("s" if times["threads"] != 1 else "")
            what = f"{entry['file']}, {times['runtime']}, batch {times['batch']}, {threads}"
            counts = entry["histogram"]
            above = f"; {counts['above']} of {sum(counts['counts']) + counts['above']} calls are beyond the axis"
            pictures.append(figure(what + above, histogram(what, times, counts)))
    rows = [benchmark_row(entry) for entry in report["benchmarks"]]
    inside = [table("Files timed side by side", BENCHMARK_COLUMNS, rows, left=(0, 1))]
    if pictures:
        inside.append(grid(*pictures))
    if report["fp16"]:
        half = report["fp16"]
        agreement = f"equal top-1 on {100 * half['parity']['top1_agreement']:.2f} % of {half['parity']['samples']} inputs"
        inside.append(paragraph(f"Half precision: {half['file']}, {half['size_bytes'] / 1e6:.2f} MB, {agreement}."))
    inside.append(
        paragraph(
            "Short blocks of calls of the files alternate, so that a drift of the machine meets all alike; faster is to the "
            "first file of the same runtime and threads, with a 95 % bootstrap interval.",
            "muted",
        )
    )
    return section("Latency", *inside)
