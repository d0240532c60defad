"""The words and tables of a report."""

import copy
import re

import pytest
from torch import nn

from compress.report.json_text import dumps
from compress.report.markdown import to_markdown
from compress.report.text import coverage_text, float_layers, headline, row, stage_table, verdicts
from compress.run import Run

LATENCY = {"p50": 2.5, "p90": 3.0, "p99": 4.0, "batch": 1, "runtime": "ort-cpu", "threads": 1}
STAGE = {
    "name": "baseline",
    "options": {},
    "seconds": 0.04,
    "accuracy": 0.93,
    "eval_samples": 1000,
    "params": 11_181_642,
    "nonzero_params": 11_181_642,
    "macs": 98_040_832,
    "size_bytes": 44_725_600,
    "latency_ms": LATENCY,
    "notes": [],
}
SMALL = {
    **STAGE,
    "name": "int8",
    "accuracy": 0.925,
    "size_bytes": 2_862_438,
    "latency_ms": {**LATENCY, "p50": 0.25},
    "notes": ["ranges from 512 calibration samples"],
}


def benchmark(file: str, threads: int, speedup: float) -> dict:
    return {
        "file": file,
        "latency_ms": {**LATENCY, "threads": threads},
        "runs": 100,
        "throughput": 400.0,
        "peak_memory_bytes": 1_500_000,
        "speedup": speedup,
        "speedup_interval": [speedup - 0.5, speedup + 0.5],
    }


def report() -> dict:
    return copy.deepcopy(
        {
            "version": 1,
            "model": "resnet18",
            "input_shape": [[1, 3, 48, 48]],
            "data": "fashion-mnist",
            "seed": 0,
            "environment": {
                "python": "3.11.7",
                "system": "Linux x86_64",
                "versions": {"torch": "2.13.0"},
                "cpu": "A CPU",
                "isa_flags": ["avx512_vnni"],
                "cores": 2,
                "threads": 1,
                "gpu": None,
            },
            "stages": [STAGE, SMALL],
            "summary": {"speedup": 10.0, "speedup_interval": [9.5, 10.5], "size_ratio": 15.625, "accuracy_drop": 0.005},
            "parity": {"top1_agreement": 1.0, "max_rel_error": 0.01, "samples": 256, "ties": 2, "on": "evaluation"},
            "integer_coverage": {
                "conv": [19, 20],
                "linear": [1, 1],
                "add": [0, 0],
                "left_in_float": [{"name": "conv1", "reason": "left in float by option"}],
            },
            "benchmarks": [
                benchmark("baseline.onnx", 1, 1.0),
                benchmark("model.onnx", 1, 10.0),
                benchmark("baseline.onnx", 2, 1.0),
                benchmark("model.onnx", 2, 6.0),
            ],
            "fp16": None,
        }
    )


def test_a_row() -> None:
    assert row(SMALL) == ("int8", "92.50", "0.250", "3.000", "2.86", "11.182", "98.0", "0.0")
    assert row({**STAGE, "accuracy": None})[1] == "-"


def test_the_table_of_stages_says_how_much_faster_and_smaller_each_is() -> None:
    header, rows = stage_table(report())
    assert header == ("stage", "accuracy %", "ms p50", "p90", "size MB", "params M", "MMACs", "seconds", "faster", "smaller")
    assert [(*line[:3], *line[-2:]) for line in rows] == [
        ("baseline", "93.00", "2.500", "1.00x", "1.00x"),
        ("int8", "92.50", "0.250", "10.00x", "15.63x"),
    ]


def test_a_notebook_shows_the_stages_and_the_headline() -> None:
    found = report()
    found["stages"][1]["name"] = "<int8>"
    page = Run(nn.Identity(), found, None)._repr_html_()
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page)
    header, rows = stage_table(report())
    assert cells == [*header, *rows[0], "&lt;int8&gt;", *rows[1][1:]]
    assert re.findall(r"<li>(.*?)</li>", page) == list(headline(found))


def test_the_headline_says_gain_and_loss() -> None:
    assert headline(report()) == (
        "gained: 10.00x faster (9.50 to 10.50; ort-cpu, batch 1, 1 thread); 6.00x faster (5.50 to 6.50; ort-cpu, batch 1, "
        "2 threads); 15.6x smaller, 19/20 conv, 1/1 linear in int8",
        "lost: 0.50 points of accuracy (93.00 % to 92.50 % on 1000 samples); torch and ONNX agree on 100.00 % of 256 samples",
    )


def test_a_result_that_disappoints_is_shouted() -> None:
    slow = report()
    slow["benchmarks"] = [benchmark("baseline.onnx", 1, 1.0), {**benchmark("model.onnx", 1, 0.5), "speedup_interval": [0.4, 0.8]}]
    slow["summary"] = {"speedup": 0.5, "speedup_interval": [0.4, 0.8], "size_ratio": 0.8, "accuracy_drop": -0.01}
    slow["stages"][1]["accuracy"] = 0.94
    gained, lost = headline(slow)
    assert gained.startswith("gained: 2.00x SLOWER (1.25 to 2.50; ort-cpu, batch 1, 1 thread); 1.25x LARGER")
    assert lost.startswith("lost: nothing, accuracy rose by 1.00 points (93.00 % to 94.00 % on 1000 samples)")


@pytest.mark.parametrize("file", [0, 1])
def test_times_taken_beside_other_work_are_said_to_be(file: int) -> None:
    busy = report()
    busy["benchmarks"][file]["latency_ms"]["p90"] = 1.51 * busy["benchmarks"][file]["latency_ms"]["p50"]
    assert headline(busy)[0].startswith(
        "gained: 10.00x faster (9.50 to 10.50, UNSTEADY: repeat it with compress bench on a quiet machine; ort-cpu, batch 1, 1 "
        "thread); 6.00x faster (5.50 to 6.50; ort-cpu"
    )


def test_all_cores_are_unsteady_on_a_quiet_machine_too() -> None:
    usual = report()
    for entry in usual["benchmarks"][2:]:
        assert entry["latency_ms"]["threads"] == 2
        entry["latency_ms"]["p90"] = 3.2 * entry["latency_ms"]["p50"]
    assert headline(usual) == headline(report())


def test_without_evaluation_data_nothing_is_claimed() -> None:
    blind = report()
    blind["summary"]["accuracy_drop"] = None
    assert headline(blind)[1].startswith("lost: not measured, since there are no evaluation data; ")


def test_integers_are_spoken_of_only_where_there_are_any() -> None:
    floating = report()
    floating["integer_coverage"]["conv"] = [0, 20]
    floating["integer_coverage"]["linear"] = [0, 1]
    assert coverage_text(floating["integer_coverage"]) == ""
    assert float_layers(floating) == []
    assert float_layers(report()) == ["conv1 stays in float: left in float by option"]


def test_layers_that_one_reason_leaves_in_float_share_a_line() -> None:
    some = report()
    names = [("a", "slow"), ("b", "lost"), *((name, "slow") for name in "cdefg")]
    some["integer_coverage"]["left_in_float"] = [{"name": name, "reason": reason} for name, reason in names]
    assert float_layers(some) == ["a, c, d, e, f and 1 more stay in float: slow", "b stays in float: lost"]
    some["integer_coverage"]["left_in_float"] = some["integer_coverage"]["left_in_float"][:-1]
    assert float_layers(some)[0] == "a, c, d, e, f stay in float: slow"


def test_markdown_holds_all_of_it() -> None:
    text = to_markdown(report()).splitlines()
    assert text[0] == "# resnet18"
    assert "| int8 | 92.50 | 0.250 | 3.000 | 2.86 | 11.182 | 98.0 | 0.0 |" in text
    assert "- int8: ranges from 512 calibration samples" in text
    assert "- conv1 stays in float: left in float by option" in text
    assert "- parity on 256 inputs (evaluation): equal top-1 1.0000, 2 ties left out, largest relative error 0.01" in text
    assert "| model.onnx | ort-cpu | 1 | 2 | 2.500 | 3.000 | 4.000 | 400 | 1.5 | 6.00x | 5.50 to 6.50 |" in text
    assert text[-1].startswith("Measured on A CPU (avx512_vnni), 2 cores, GPU none; Python 3.11.7, torch 2.13.0. ")


def test_json_is_standard_json() -> None:
    broken = report()
    broken["summary"]["speedup"] = float("nan")
    with pytest.raises(ValueError):
        dumps(broken)


def test_a_search_within_a_bound_is_a_line_and_a_table_of_what_it_tried() -> None:
    found = report()
    assert verdicts(found) == []
    trial = {"in_float": ["a", "b"], "score": 0.92, "drop": 0.01, "latency_ms": 0.5, "extra_ms": 0.25, "seconds": 4.0}
    first = {**trial, "in_float": [], "score": 0.5, "drop": 0.43, "extra_ms": 0.0}
    stage = found["stages"][-1]
    stage["details"], stage["notes"] = {"guard": {"trials": [first, trial]}}, ["ranges", "at most 1 points may be lost"]
    assert verdicts(found) == ["int8: at most 1 points may be lost"]
    lines = to_markdown(found).splitlines()
    at = lines.index("| tried, in float | validation % | points lost | p50 ms | more ms than without |")
    assert lines[at + 2 : at + 4] == ["| none | 50.00 | 43.00 | 0.500 | 0.000 |", "| a, b | 92.00 | 1.00 | 0.500 | 0.250 |"]
