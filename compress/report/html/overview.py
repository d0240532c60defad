"""The first screen: what was gained and lost, the stages, and which of them are worth having."""

from typing import Any

from compress.report.html.bars import Bar, bars
from compress.report.html.parts import bullets, figure, grid, paragraph, section, stage_names, table
from compress.report.html.scatter import Point, on_front, scatter
from compress.report.text import stage_table, verdicts
from compress.tables import html_escaped

BAR_WIDTH = 350
LONGEST_NOTE = 1000  # some name every layer of a network


def tiles(report: dict[str, Any]) -> str:
    """The figures that a reader came for, each with what it is made of."""
    summary, first, last = report["summary"], report["stages"][0], report["stages"][-1]
    low, high = sorted(end if summary["speedup"] >= 1 else 1 / end for end in summary["speedup_interval"])
    timed = report["benchmarks"][:2]
    before, after = (f"{entry['latency_ms']['p50']:.3f}" for entry in (timed[0], timed[-1]))
    setting = timed[0]["latency_ms"]
    threads = f"{setting['threads']} thread" + ("s" if setting["threads"] != 1 else "")
    found = [
        (
            _times(summary["speedup"], "faster", "SLOWER", "as fast"),
            f"{before} to {after} ms (p50), side by side; 95 % interval {low:.2f} to {high:.2f}x; "
            f"{setting['runtime']}, batch {setting['batch']}, {threads}",
        ),
        (
            _times(summary["size_ratio"], "smaller", "LARGER", "as large"),
            f"{first['size_bytes'] / 1e6:.3g} to {last['size_bytes'] / 1e6:.3g} MB (10^6 bytes) of ONNX",
        ),
        _accuracy(report),
        (
            _times(first["macs"] / max(last["macs"], 1), "fewer MACs", "MORE MACs", "as many MACs"),
            f"{first['macs'] / 1e6:.1f} to {last['macs'] / 1e6:.1f} million multiply-adds; "
            f"{first['params'] / 1e6:.3f} to {last['params'] / 1e6:.3f} million parameters",
        ),
    ]
    boxes = "".join(f"<li><strong>{html_escaped(text)}</strong> {html_escaped(detail)}</li>\n" for text, detail in found)
    return f'<ul class="tiles">\n{boxes}</ul>\n'


def _times(ratio: float, better: str, worse: str, same: str) -> str:
    if round(ratio, 2) == 1:
        return same
    return f"{ratio:.2f}x {better}" if ratio >= 1 else f"{1 / ratio:.2f}x {worse}"


def _accuracy(report: dict[str, Any]) -> tuple[str, str]:
    first, last, drop = report["stages"][0], report["stages"][-1], report["summary"]["accuracy_drop"]
    if drop is None:
        return "accuracy unknown", "there are no evaluation data"
    detail = f"{100 * first['accuracy']:.2f} to {100 * last['accuracy']:.2f} % on {last['eval_samples']} samples"
    return f"{100 * abs(drop):.2f} points {'lost' if drop >= 0 else 'gained'}", detail


def stages(report: dict[str, Any]) -> str:
    """Table, bars, and what is to be known about each stage."""
    header, rows = stage_table(report)
    names, measured = stage_names(report), report["stages"]
    kinds = ["before", *[""] * (len(measured) - 2), "end"][-len(measured) :]
    accuracy, latency, size = [], [], []
    for name, stage, class_ in zip(names, measured, kinds, strict=True):
        percent, times, mb = stage["accuracy"], stage["latency_ms"], stage["size_bytes"] / 1e6
        percent = None if percent is None else 100 * percent
        accuracy.append(Bar(name, percent, "-" if percent is None else f"{percent:.2f}", None, class_))
        latency.append(Bar(name, times["p50"], f"{times['p50']:.3g} / {times['p90']:.3g}", times["p90"], class_))
        size.append(Bar(name, mb, f"{mb:.3g}", None, class_))
    pictures = [
        figure("Latency, ms: bar to p50, line to p90", bars("Latency in ms, p50 / p90", latency, BAR_WIDTH)),
        figure("Size of the ONNX file, MB", bars("Size in MB", size, BAR_WIDTH)),
    ]
    if any(bar.value is not None for bar in accuracy):
        pictures.insert(0, figure("Accuracy, %", bars("Accuracy in %", accuracy, BAR_WIDTH)))
    notes = [f"{name}: {_cut(note)}" for name, stage in zip(names, measured, strict=True) for note in stage["notes"]]
    parity = report["parity"]
    agreement = (
        f"Torch and the ONNX file agree on {100 * parity['top1_agreement']:.2f} % of {parity['samples']} inputs "
        f"({parity['on']}; ties left out: {parity['ties']}); largest relative error {parity['max_rel_error']:.3g}."
    )
    return section(
        "Stages",
        bullets(verdicts(report)),
        table("Measured on the ONNX file of each stage", header, rows),
        grid(*pictures, columns=len(pictures)),
        paragraph(agreement),
        f'<div class="notes">\n{bullets(notes)}</div>\n',
    )


def _cut(note: str) -> str:
    return note if len(note) <= LONGEST_NOTE else f"{note[:LONGEST_NOTE]}… (report.json has all of it)"


def trade(report: dict[str, Any]) -> str:
    """Accuracy against latency; nothing without evaluation data."""
    points = [
        Point(name, stage["latency_ms"]["p50"], 100 * stage["accuracy"])
        for name, stage in zip(stage_names(report), report["stages"], strict=True)
        if stage["accuracy"] is not None
    ]
    if not points:
        return ""
    best = [f"{point.name}: {point.accuracy:.2f} % in {point.latency_ms:.3g} ms" for point in on_front(points)]
    words = "Square: the baseline. Filled: on the Pareto front. Hollow: another stage is as fast, as accurate, and better in one."
    return section(
        "Accuracy against latency",
        grid(
            figure("A mark for each stage; the dashed line is the Pareto front", scatter(points)),
            f"<div>\n{paragraph('On the front, the fastest first:')}{bullets(best)}{paragraph(words, 'muted')}</div>\n",
        ),
    )
