"""A run of the bundled network, from what it prints to what its folder is good for."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ROOT, compress

SMALL = ("--limit-train", "320", "--limit-eval", "100")
# Which layers are slower in integers is no matter of this file, and depends on what else the machine does.
ALL_IN_INTEGERS = ("--pass", "int8:keep_slow=true")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("cli") / "out"
    flags = ("--prune", "0.5", "--int8", "--finetune", "1", *ALL_IN_INTEGERS)
    return compress("run", "resnet18", *flags, *SMALL, "--out", str(folder)), folder


def test_a_whole_run_prints_rows_table_and_three_lines(whole: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, folder = whole
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    stages = ["baseline", "prune_channels", "reestimate_bn", "finetune", "int8"]
    assert [line.split()[0] for line in lines[1:6]] == stages
    assert [line.split()[0] for line in lines[8:13]] == stages
    assert lines[13].startswith("gained: ") and lines[13].endswith("20/20 conv, 1/1 linear, 8/8 add in int8")
    assert lines[14].startswith("lost: ") and "torch and ONNX agree on " in lines[14]
    assert lines[15:] == [f"files: {folder}/ (model.onnx, baseline.onnx, report.html)"]
    assert "\x1b" not in done.stdout


def test_the_folder_is_read_by_eval_bench_and_load(whole: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    _, folder = whole
    report = json.loads((folder / "report.json").read_text())
    scored = compress("eval", str(folder), "--data", "fashion-mnist", "--limit-eval", "100", "--json")
    assert (scored.returncode, scored.stderr) == (0, "")
    assert json.loads(scored.stdout)["accuracy"] == report["stages"][-1]["accuracy"]
    timed = compress("bench", str(folder), "--json")
    assert (timed.returncode, timed.stderr) == (0, "")
    rows = json.loads(timed.stdout)["rows"]
    assert [Path(row["file"]).name for row in rows] == ["baseline.onnx", "model.onnx"]
    assert rows[1]["input_shape"] == [[1, 3, 48, 48]]
    clean = "import compress, sys, torch; print(compress.load(sys.argv[1])(torch.zeros(1, 3, 48, 48)).shape)"
    loaded = subprocess.run([sys.executable, "-c", clean, str(folder)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (loaded.stdout, loaded.stderr) == ("torch.Size([1, 10])\n", "")


def test_int8_logits_are_numbers(whole: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    import compress as package

    model = package.load(whole[1])
    with torch.no_grad():
        assert np.isfinite(model(torch.zeros(3, 3, 48, 48)).numpy()).all()


def test_quantization_aware_training_of_the_bundled_network(tmp_path: Path) -> None:
    small = ("--limit-train", "96", "--limit-eval", "100", "--pass", "qat:weight_bits=3", "--pass", "qat:keep_slow=true")
    done = compress("run", "resnet18", "--qat", "1", *small, "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["baseline", "qat"]
    assert report["stages"][1]["options"]["epochs"] == 1
    assert report["parity"]["top1_agreement"] >= 0.99
    assert " scores " in report["stages"][1]["notes"][2]
