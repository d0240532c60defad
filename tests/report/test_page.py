"""The page as a whole, as a parser of HTML and one of XML read it."""

import html.parser
import re
import xml.etree.ElementTree as ET
from importlib import resources
from typing import Any

import pytest

from compress.report import to_html

VOID = {"meta"}
RECIPE = "model: net\npasses:\n- int8: {}\n"


class Reader(html.parser.HTMLParser):
    """Headings, tables by caption, words, and every tag with its attributes; fails on tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "table":
            self.rows: list[list[str]] = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or not data.strip():
            return
        self.text.setdefault(self.open[-1], []).append(data)
        if self.open[-1] == "caption":
            self.tables[data] = self.rows
        elif self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def pictures(page: str) -> list[ET.Element]:
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_everything_that_a_run_measured_has_its_place(report: dict[str, Any]) -> None:
    page = to_html(report, RECIPE)
    read = Reader(page)
    sections = ["Stages", "Accuracy against latency", "Layers", "Integers", "Latency", "Training", "Machine", "To repeat it"]
    assert read.text["h2"] == sections == read.text["a"]
    linked = [attrs["href"] for tag, attrs in read.tags if tag == "a"]
    assert linked == [f"#{attrs['id']}" for tag, attrs in read.tags if tag == "section"]
    assert read.text["strong"] == ["6.00x faster", "16.00x smaller", "2.00 points lost", "4.00x fewer MACs"]
    stages = read.tables["Measured on the ONNX file of each stage"]
    assert [row[:3] for row in stages[1:]] == [
        ["baseline", "90.00", "4.000"],
        ["prune_channels", "50.00", "2.000"],
        ["finetune", "85.00", "2.000"],
        ["int8", "88.00", "0.800"],
    ]
    assert read.tables["Left in float"][1:] == [["fc", "kept for the accuracy"]]
    assert read.tables["int8: networks that were tried, on validation data"][1][:3] == ["fc", "86.00", "1.00"]
    assert [row[-1] for row in read.tables["Files timed side by side"][1:]] == ["0.75 to 1.25", "5.75 to 6.25"]
    assert read.tables["finetune: epochs"][1:] == [
        ["1", "4", "64", "2.0000", "25.00", "60.00", "0.01", "1.5", "12"],
        ["2", "8", "128", "1.0000", "50.00", "70.00", "0.01", "1.5", "12"],
    ]
    assert read.tables["Layers"][1:] == [
        ["conv1", "64", "32", "50.00"],
        ["fc", "10", "10", "0.00"],
        ["mix", "8", "-", "-"],
        ["mix.a", "-", "4", "0.00"],
    ]
    assert {"Width", "Zeros in weights"} <= set(read.text["figcaption"])
    assert ["onnxruntime", "1.31.1"] in read.tables["What the figures were measured on"]
    assert read.text["pre"] == ["compress run --recipe recipe.yaml", RECIPE.rstrip()]
    spoken = [picture.get("aria-label", "") for picture in pictures(page)]
    assert spoken == [
        "Accuracy in %: baseline 90.00; prune_channels 50.00; finetune 85.00; int8 88.00",
        "Latency in ms, p50 / p90: baseline 4 / 5; prune_channels 2 / 2.5; finetune 2 / 2.5; int8 0.8 / 1",
        "Size in MB: baseline 8; prune_channels 2; finetune 2; int8 0.5",
        "Accuracy against latency: baseline 90.00 % in 4 ms; prune_channels 50.00 % in 2 ms; finetune 85.00 % in 2 ms; "
        "int8 88.00 % in 0.8 ms. Pareto front: int8, baseline",
        "Width: conv1 64 → 32; fc 10; mix 8, replaced; mix.a new, 4",
        "Zeros in weights: conv1 50.0 %",
        "In int8: conv 1 of 2; linear 1 of 1",
        "baseline.onnx, ort-cpu, batch 1, 1 thread: 50 calls, in ms p50 4.2, p90 5.04, p99 6.3; 1 took longer than the axis reaches",
        "model.onnx, ort-cpu, batch 1, 1 thread: 50 calls, in ms p50 0.7, p90 0.84, p99 1.05; 1 took longer than the axis reaches",
        "finetune, loss: loss 2 after epoch 1, 1 after epoch 2",
        "finetune, accuracy in %: while training 25 after epoch 1, 50 after epoch 2; validation 60 after epoch 1, 70 after epoch 2",
    ]


def test_no_name_becomes_markup(report: dict[str, Any]) -> None:
    plain = to_html(report, RECIPE)
    evil = "</style></svg><b>&\"'\x00"
    report["model"] = report["data"] = report["layers"][0]["name"] = report["benchmarks"][0]["file"] = evil
    report["environment"]["cpu"] = report["environment"]["versions"]["torch"] = evil
    report["integer_coverage"]["left_in_float"][0] = {"name": evil, "reason": evil}
    for stage in report["stages"]:
        stage["name"], stage["notes"] = evil, [evil]
    page = to_html(report, RECIPE + evil)
    assert page.isascii() and "<b>" not in page
    assert len(pictures(page)) == len(pictures(plain))

    def tags(text: str) -> list[str]:  # a stage's note in each list, where two had none
        return [tag for tag, _ in Reader(text).tags if tag not in ("li", "ul", "text", "title", "path", "g")]

    assert tags(page) == tags(plain)
    assert Reader(page).text["h1"] == [evil.replace("\x00", "\ufffd")]


def test_a_page_loads_and_executes_nothing(report: dict[str, Any]) -> None:
    page = to_html(report, RECIPE)
    policy = next(attrs["content"] for tag, attrs in Reader(page).tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert not re.search(r"(?i)https?:|<script|<link|<img|<iframe|@import|url\(|\ssrc=|\son\w+=|javascript:", page)


def test_what_is_not_known_is_left_out_and_not_drawn_as_nothing(report: dict[str, Any]) -> None:
    for stage in report["stages"]:
        stage.update(accuracy=None, eval_samples=None, details={}, notes=[])
    report["summary"]["accuracy_drop"] = None
    report["integer_coverage"] = {"conv": [0, 2], "linear": [0, 1], "add": [0, 0], "left_in_float": []}
    report["fp16"] = report["data"] = None
    del report["layers"]
    for entry in report["benchmarks"]:
        del entry["histogram"]
    read = Reader(to_html(report))
    assert read.text["h2"] == ["Stages", "Latency", "Machine", "To repeat it"]
    assert "accuracy unknown" in read.text["strong"]
    assert "The folder has no recipe.yaml." in read.text["p"]
    assert len(pictures(to_html(report))) == 2  # latency and size
    assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", str(list(read.text.values())))


def test_one_stage_alone_is_a_page(report: dict[str, Any]) -> None:
    report["stages"] = report["stages"][:1]
    report["benchmarks"] = report["benchmarks"][:1]
    assert "6.00x faster" in Reader(to_html(report)).text["strong"]


def test_a_result_that_disappoints_is_shouted(report: dict[str, Any]) -> None:
    report["summary"].update(speedup=0.5, speedup_interval=[0.4, 0.8], size_ratio=0.8, accuracy_drop=-0.01)
    report["stages"][-1]["macs"] = 160_000_000
    assert "95 % interval 1.25 to 2.50x" in to_html(report)
    assert Reader(to_html(report)).text["strong"] == ["2.00x SLOWER", "1.25x LARGER", "1.00 points gained", "2.00x MORE MACs"]


@pytest.mark.parametrize("training", ["done", 7, [], [{"number": 1}], [None], [{"number": "1", "loss": "low"}]])
def test_what_a_foreign_pass_leaves_in_its_details_is_no_training(report: dict[str, Any], training: object) -> None:
    report["stages"][2]["details"] = {"training": training}
    assert "Training" not in Reader(to_html(report)).text["h2"]


def test_two_stages_of_one_name_are_numbered(report: dict[str, Any]) -> None:
    report["stages"][1]["name"] = "finetune"
    report["stages"][1]["details"] = report["stages"][2]["details"]
    read = Reader(to_html(report))
    assert read.text["h3"] == ["finetune 1", "finetune 2"]
    assert {"finetune 1: epochs", "finetune 2: epochs"} <= set(read.tables)


def test_what_is_as_before_is_no_gain(report: dict[str, Any]) -> None:
    report["summary"].update(speedup=1.004, size_ratio=0.996)
    report["stages"][-1]["macs"] = report["stages"][0]["macs"]
    assert Reader(to_html(report)).text["strong"] == ["as fast", "as large", "2.00 points lost", "as many MACs"]


def test_layers_that_nothing_was_done_to_are_told_in_one_line(report: dict[str, Any]) -> None:
    report["layers"] = [{"name": name, "width_before": 8, "width_after": 8, "sparsity": 0.005} for name in "ab"]
    page = to_html(report)
    assert "All 2 convolutions and linear layers have the width that they had." in Reader(page).text["p"]
    assert not [p for p in pictures(page) if p.get("aria-label", "").startswith(("Width", "Zeros"))]


def test_a_module_from_python_is_not_said_to_have_a_command(report: dict[str, Any]) -> None:
    read = Reader(to_html(report, RECIPE, by_name=False))
    assert "The network was given in Python, as a net: call compress.run with it and these passes." in read.text["p"]
    assert read.text["pre"] == [RECIPE.rstrip()]
    report["environment"]["threads"] = 4
    assert Reader(to_html(report, RECIPE)).text["pre"][0] == "compress run --recipe recipe.yaml --threads 4"


def test_the_largest_report_stays_light(report: dict[str, Any]) -> None:
    name = "encoder.stages.{}.blocks.attention.output.dense"
    row = {"width_before": 1024, "width_after": 512, "sparsity": 0.5}
    report["layers"] = [{"name": name.format(number), **row} for number in range(3000)]
    report["integer_coverage"]["left_in_float"] = [{"name": name.format(n), "reason": "no kernel" * 5} for n in range(3000)]
    stage = report["stages"][2]
    epoch = stage["details"]["training"][0]
    stage["details"] = {"training": [{**epoch, "number": number} for number in range(1, 2001)]}
    report["stages"][3]["details"]["guard"]["trials"] *= 1000
    stage["notes"] = ["narrowed: " + ", ".join(name.format(number) for number in range(3000))]
    page = to_html(report, RECIPE)
    assert len(page) < 500_000
    read = Reader(page)
    assert next(text for text in read.text["li"] if "narrowed: " in text).endswith("… (report.json has all of it)")
    assert len(read.tables["Layers"]) == len(read.tables["Left in float"]) == 251
    assert "The first 250 of 3000; report.json has all." in read.text["p"]
    assert "Only the first 250 of 3000 layers are shown; report.json has all." in read.text["p"]
    assert {"Width, layers 1 to 30", "Width, layers 241 to 250"} <= set(read.text["figcaption"])
    assert "finetune: epochs, 200 of 2000" in read.tables


def luminance(colour: str) -> float:
    """Relative luminance: W3C 2023, "Web Content Accessibility Guidelines 2.2", section 6."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_words_and_marks_stand_out_in_light_in_dark_and_on_paper() -> None:
    style = resources.files("compress.report.html").joinpath("style.css").read_text()
    palettes = [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)]
    assert len(palettes) == 3
    for colours in palettes:
        assert set(colours) == set(re.findall(r"var\(--(\w+)\)", style))
        for ground in ("page", "panel"):
            assert all(contrast(colours[name], colours[ground]) >= 4.5 for name in ("ink", "muted", "end", "second"))
            assert all(contrast(colours[name], colours[ground]) >= 3 for name in ("bar", "edge"))
        assert contrast(colours["bar"], colours["end"]) >= 2  # told apart by those who see no colours
