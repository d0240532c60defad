"""What the command line refuses: one line, the exit code, and nothing left behind."""

from pathlib import Path

import pytest
from command_line import compress, in_process


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "resnet18"], "no pass was asked for; say what to do, for example --prune 0.5 --int8"),
        (["run", "--int8"], "no model was given; name one, for example resnet18 (compress zoo list shows more)"),
        (["run", "resnet18", "--prune", "1.5"], "prune_channels: ratio must be in (0, 1), got 1.5"),
        (["run", "resnet18", "--prune", "nan"], "prune_channels: ratio must be in (0, 1), got nan"),
        (["run", "resnet18", "--prune", "half"], "Invalid value for '--prune': 'half' is not a valid float."),
        (["run", "resnet18", "--pass", "prune"], "unknown pass 'prune'. Did you mean 'prune_channels'?"),
        (["run", "resnet18", "--pass", "int8:rangs=mse"], "int8 has no option 'rangs'. Did you mean 'ranges'?"),
        (["run", "resnet18", "--pass", "int8:ranges"], "--pass takes NAME or NAME:key=value, got 'int8:ranges'"),
        (["run", "resnet18", "--prune", "0.5", "--finetune", "0"], "finetune: epochs must be at least 1, got 0"),
        (
            ["run", "resnet18", "--prune", "0.5", "--finetune", "2", "--no-finetune"],
            "--finetune and --no-finetune contradict each other",
        ),
        (["run", "resnet18", "--int8", "--qat", "1"], "--qat is int8 with training; leave --int8 out"),
        (["run", "resnet18", "--qat", "0"], "qat: epochs must be at least 1, got 0"),
        (
            ["run", "resnet18", "--qat", "1", "--pass", "cluster"],
            "qat cannot come after cluster: it trains, and shared values would part; use int8",
        ),
        (["run", "resnet18", "--int8", "--device", "tpu"], "device must be auto, cpu or cuda, got 'tpu'"),
        (["run", "resnet18", "--int8", "--resume"], "--resume needs --out DIR: the folder of the run to continue"),
        (["run", "resnet20", "--int8"], "the zoo has no weights for resnet20; give a state dict with --weights FILE"),
        (["run", "resnet18", "--int8", "--weights", "none.pt"], "no such weight file: none.pt"),
        (["run", "--recipe", "none.yaml"], "the recipe none.yaml cannot be read: No such file or directory"),
        (
            ["run", "--recipe", "none.yaml", "--int8"],
            "--recipe already says which passes run; --int8 cannot be added to it: edit the file instead",
        ),
        (["bench", "none.onnx"], "no such file: none.onnx"),
        (["bench", "none.onnx", "--runtime", "ort-cpp"], "unknown runtime 'ort-cpp'. Did you mean 'ort-cpu'?"),
        (["bench", "none.onnx", "--input-size", "big"], "--input-size takes HxW in pixels, such as 224x224, got 'big'"),
        (["eval", "none.onnx", "--data", "fashion-mnist"], "no such file: none.onnx"),
        (["zoo", "show", "resnet81"], "unknown model 'resnet81'. Did you mean 'resnet18'?"),
        (["passes", "show", "int9"], "unknown pass 'int9'. Did you mean 'int8'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message_and_leaves_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_process(capsys, *arguments) == (2, "", f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_an_option_given_twice_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--pass", "int8:ranges=mse", "--pass", "int8:ranges=minmax")
    message = "error: int8: ranges is given twice; a recipe can hold a pass more than once, flags cannot\n"
    assert in_process(capsys, "run", "resnet18", *given) == (2, "", message)


def test_a_file_that_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    code, out, error = in_process(capsys, "bench", str(path))
    assert (code, out) == (2, "")
    assert error.startswith(f"error: {path} cannot be opened by ONNX Runtime: ")


def test_a_read_only_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, out, error = in_process(
        capsys, "run", "resnet18", "--int8", "--limit-eval", "10", "--out", str(tmp_path / "file" / "out")
    )
    assert (code, out, error) == (2, "", f"error: {tmp_path / 'file' / 'out'} cannot be written: Not a directory\n")


def test_a_full_disk_is_told_and_leaves_no_half_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, out, error = in_process(capsys, "run", "resnet18", "--int8", "--limit-eval", "10", "--out", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert error == f"error: {tmp_path / 'out' / 'recipe.yaml'} cannot be written: No space left on device\n"
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_debug_shows_the_traceback() -> None:
    done = compress("run", "resnet19", "--int8", "--debug")
    assert "Traceback (most recent call last)" in done.stderr


BRANCHES = """
import torch
from torch import nn
from compress import Task
class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y * 2 if y.sum() > 0 else y
def build():
    return Branches(), Task((torch.randn(2, 3, 8, 8),), calibration=lambda: [(torch.randn(4, 3, 8, 8),)])
def fails():
    raise RuntimeError("one\\ntwo")
"""


def test_a_failed_run_says_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BRANCHES)
    done = compress("run", "mine.py:build", "--int8", "--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: Branches cannot be captured by torch.export: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_error_of_several_lines_is_told_in_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(BRANCHES)
    monkeypatch.chdir(tmp_path)
    assert in_process(capsys, "run", "mine.py:fails", "--int8") == (2, "", "error: mine.py, line 15: RuntimeError: one\n")


BROKEN = """
import torch
from dataclasses import replace
from compress.testing import tiny_model, tiny_task
def weights():
    model = tiny_model()
    model.body.weight.data[3, 0, 0, 0] = float("nan")
    return model, tiny_task()
def data():
    images = torch.randn(8, 3, 16, 16)
    images[2, 0, 0, 0] = float("nan")
    return tiny_model(), replace(tiny_task(), calibration=lambda: [(images,)])
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("weights", "the weight 'body.weight' holds NaN or infinity; a model must work before it can be compressed"),
        ("data", "the calibration data hold NaN: sample 3, in the input 'x'; check the data"),
    ],
)
def test_what_is_no_number_is_named(
    function: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    assert in_process(capsys, "run", f"mine.py:{function}", "--int8", "--quiet", "--out", "out") == (2, "", f"error: {message}\n")
    assert not (tmp_path / "out").exists()
