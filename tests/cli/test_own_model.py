"""A run of a file of one's own: repeated, resumed, reported again, quiet, and without training data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import ROOT, compress

TINY = """
from compress.testing import tiny_model, tiny_task
def build():
    print("of my own")
    return tiny_model(), tiny_task()
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's own file, and in `out` a run of it."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "mine.py").write_text(TINY)
    done = compress("run", "mine.py:build", "--prune", "0.5", "--int8", "--finetune", "1", "--out", "out", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_the_resolved_recipe_repeats_the_run(tiny: Path, tmp_path: Path) -> None:
    again = compress("run", "--recipe", "out/recipe.yaml", "--out", str(tmp_path / "out"), "--json", cwd=tiny)
    assert (again.returncode, again.stderr) == (0, "of my own\n")
    first, second = json.loads((tiny / "out" / "report.json").read_text()), json.loads(again.stdout)
    assert [s["accuracy"] for s in second["stages"]] == [s["accuracy"] for s in first["stages"]]
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (tiny / "out" / "model.onnx").read_bytes()
    assert yaml.safe_load((tiny / "out" / "recipe.yaml").read_text())["passes"][2] == {
        "finetune": {
            "epochs": 1,
            "lr": 0.01,
            "weight_decay": 0.0005,
            "optimizer": "sgd",
            "schedule": "one_cycle",
            "accumulate": 1,
            "clip_norm": None,
            "average": None,
            "mixup": 0.0,
            "patience": None,
            "retry": False,
            "tensorboard": None,
            "distill": True,
            "temperature": 4.0,
            "alpha": 0.9,
            "label_smoothing": 0.0,
            "allow_noop": False,
        }
    }


def test_resume_on_a_finished_folder_prints_its_report(tiny: Path) -> None:
    rest = ("--int8", "--finetune", "1", "--out", "out", "--resume")
    again = compress("run", "mine.py:build", "--prune", "0.5", *rest, "--json", cwd=tiny)
    assert json.loads(again.stdout) == json.loads((tiny / "out" / "report.json").read_text())
    other = compress("run", "mine.py:build", "--prune", "0.25", *rest, cwd=tiny)
    assert other.returncode == 2
    assert other.stderr == (
        "error: out was started with prune_channels ratio 0.5, not 0.25; resume it with the same options, "
        "or start anew with --force\n"
    )


def test_the_page_is_written_again(tiny: Path) -> None:
    page = tiny / "out" / "report.html"
    written = page.read_bytes()
    page.unlink()
    done = compress("report", "out", cwd=tiny)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the report is in out/report.html\n", "")
    assert page.read_bytes() == written
    done = compress("report", "none", cwd=tiny)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no such folder: none\n")


def test_quiet_prints_nothing(tiny: Path) -> None:
    done = compress("run", "mine.py:build", "--int8", "--quiet", "--out", "quiet", cwd=tiny)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "of my own\n")


def test_the_users_own_file_without_training_data(tmp_path: Path) -> None:
    """MODEL as FILE.py:FUNCTION; recovery that flags brought along is left out, and said so."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np, torch\n"
        "from torch import nn\n"
        "from compress import Task\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))\n"
        "    batches = [(torch.randn(8, 3, 12, 12),) for _ in range(4)]\n"
        "    return model, Task(example_inputs=(torch.randn(2, 3, 12, 12),), calibration=lambda: batches)\n"
    )
    done = compress("run", "mine.py:build", "--prune", "0.5", "--int8", "--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "note: finetune left out: the task has no train data"
    assert "lost: not measured, since there are no evaluation data" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["baseline", "prune_channels", "reestimate_bn", "int8"]
    assert report["parity"]["on"] == "noisy examples"
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "# changed\n")
    script = "import compress; compress.load('out')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.stderr.splitlines()[-1] == (
        f"compress.errors.UserError: the model was built by {tmp_path / 'mine.py'}, which has changed since; restore it, "
        "or give load(DIR, model=...)"
    )
