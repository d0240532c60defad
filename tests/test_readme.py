"""The figures that README and docs/choose.md repeat are those of benchmarks/results; the picture is small."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from compress.report.text import stage_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def result(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def table(text: str, header: str) -> dict[str, list[str]]:
    """First cell -> the others, of the rows of the Markdown table that begins so; links are their words."""
    rows = text.split(f"\n| {header}")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cell).strip() for cell in row.strip("| ").split("|")] for row in rows]
    return {first: others for first, *others in cells}


def test_the_demo_is_the_run_of_the_results() -> None:
    lines = README.splitlines()
    begin = lines.index("$ make demo TORCH=cpu") + 1
    header, rows = stage_table(result("demo"))
    shown = [line.split() for line in lines[begin : begin + 1 + len(rows)]]
    assert shown == [" ".join(cells).split() for cells in (header, *rows)]
    assert lines[begin + 1 + len(rows)] == "```"


def test_quantization_beside_other_tools() -> None:
    rows = {row["method"]: row for row in result("quantization")["rows"] if row["model"] == "efficientnet-lite0"}
    ours = rows["int8"]["latency"]
    times = {
        "float": ours["float over this"][3],
        "int8": ours["float over this"][4],
        "openvino": None,
        "onnxruntime": ours["this over onnxruntime"][4],
        "nncf": rows["nncf"]["latency"]["float over this"][4],
    }
    expected = [
        [
            f"{100 * rows[method]['accuracy']:.1f}",
            "" if method == "float" else f"{rows[method]['kl_divergence']:.4f}",
            "" if ms is None else f"{ms:.1f}",
            f"{rows[method]['openvino p50 ms']['this']:.1f}",
        ]
        for method, ms in times.items()
    ]
    assert list(table(README, "| accuracy % | divergence").values()) == expected


def test_residual_networks_in_int8() -> None:
    rows = {(row["model"], row["method"]): row for row in result("quantization")["rows"]}
    shown = table(README, "network | fp32")
    for model, found in zip(("resnet18", "resnet56", "resnet18-imagenet"), shown.values(), strict=True):
        of = {method: rows[model, method] for method in ("float", "int8", "onnxruntime", "nncf")}
        digits = 2 if of["float"]["samples"] > 1000 else 1
        accuracies = [f"{100 * row['accuracy']:.{digits}f} %" for row in of.values()]
        divergences = [f"{row['kl_divergence']:.4f}" for row in list(of.values())[1:]]
        ratios = [values[0] for order, values in of["int8"]["latency"].items() if order.startswith("this over")]
        assert found == [*accuracies, *divergences, f"{min(ratios):.2f} to {max(ratios):.2f}"]


def test_convolutions_on_the_matrix_unit() -> None:
    text = (ROOT / "docs/int8.md").read_text().split("\n| network | threads")[1].split("\n\n")[0]
    shown = [[cell.strip() for cell in row.strip("| ").split("|")] for row in text.splitlines()[2:]]
    rows = {(row["pixels"], row["pruned"], row["threads"]): row for row in result("amx")["networks"]}
    expected = []
    for key, digits in (((224, None, 1), 1), ((224, None, 2), 1), ((224, 0.5, 1), 1), ((48, 0.5, 1), 2)):
        times = [f"{rows[key][f'{name} ms']:.{digits}f}" for name in ("float", "default", "amx")]
        expected.append([str(key[2]), *times, f"{rows[key]['default over amx'][0]:.2f}"])
    assert [cells[1:] for cells in shown] == expected
    assert all(row["equal"] for row in rows.values())


@pytest.mark.parametrize(("begins", "scratch"), [("ResNet-20 (91.73 %", False), ("From scratch, four epochs", True)])
def test_losses_of_distillation(begins: str, scratch: bool) -> None:
    text = (ROOT / "docs/training.md").read_text()
    rows = [row for row in result("distillation")["rows"] if row["scratch"] is scratch]
    shown = table(text[text.index(begins) :], "losses | seed 0")
    losses = list(dict.fromkeys(row["losses"] for row in rows))
    assert sorted(name.split(",")[0].strip("`").split("=")[0] for name in shown) == sorted(losses)
    for name, cells in shown.items():
        first = name.split(",")[0].strip("`").split("=")[0]
        found = {row["seed"]: 100 * row["accuracy"] for row in rows if row["losses"] == first}
        mean = f"{sum(found.values()) / 3:.2f}" if len(found) == 3 else ""
        assert cells == [f"{found[seed]:.2f}" for seed in range(3) if seed in found] + [mean] * bool(mean), name


def test_criteria_of_pruning() -> None:
    shown = table((ROOT / "docs/choose.md").read_text(), "criterion | right after")
    short = [row for row in result("pruning-resnet56")["rows"] if row["epochs"] == 1 and row["ranking"] == "local"]
    assert set(shown) == {row["criterion"] for row in short}
    for criterion, cells in shown.items():
        for cell, (share, figure) in zip(
            cells, ((0.4762, "pruned"), (0.4762, "re-estimated"), (0.4762, "recovered"), (0.4, "recovered")), strict=True
        ):
            values = [100 * row[figure] for row in short if row["criterion"] == criterion and row["macs_target"] == share]
            low, high = f"{min(values):.1f}", f"{max(values):.1f}"
            assert cell == (low if low == high else f"{low} to {high}"), (criterion, figure)


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs/images/report.png").stat().st_size < 150_000
