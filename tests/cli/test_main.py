"""The command line as a person meets it: what it prints, what it refuses, and with which exit code."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import in_process

from cli.flags import to_recipe
from compress.passes import BUILT_IN

ROOT = Path(__file__).parent.parent.parent
SMALL = ("--limit-train", "320", "--limit-eval", "100")
# Which layers are slower in integers is no matter of this file, and depends on what else the machine does.
ALL_IN_INTEGERS = ("--pass", "int8:keep_slow=true")
# The command line with a timing loop of hundredths of a second: what is printed counts here, not how fast the machine is.
HASTY = """
import sys
from cli.main import main
from compress.measure.latency import time_interleaved
time_interleaved.__kwdefaults__.update(min_runs=3, min_seconds=0.02)
main(sys.argv[1:])
"""


def compress(
    *arguments: str, cwd: Path | None = None, command: tuple[str, ...] = ("-c", HASTY)
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole = [sys.executable, *command, *arguments]
    return subprocess.run(whole, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_help_answers_at_once() -> None:
    """Torch alone takes over a second to import, so this is about imports, not about the machine's speed."""
    compress("--help", command=("-m", "cli"))  # fills the disk's cache
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = compress("--help", command=("-m", "cli"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.8  # of the processor, whatever else runs
    assert done.stdout.startswith("Usage: compress [OPTIONS] COMMAND [ARGS]...")
    imported = subprocess.run(
        [sys.executable, "-c", "import sys, cli.main; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert imported.stdout == "False\n"


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


def test_quantization_aware_training_of_the_bundled_network(tmp_path: Path) -> None:
    small = ("--limit-train", "96", "--limit-eval", "100", "--pass", "qat:weight_bits=3", "--pass", "qat:keep_slow=true")
    done = compress("run", "resnet18", "--qat", "1", *small, "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["baseline", "qat"]
    assert report["stages"][1]["options"]["epochs"] == 1
    assert report["parity"]["top1_agreement"] >= 0.99
    assert " scores " in report["stages"][1]["notes"][2]


def test_quiet_prints_nothing(tiny: Path) -> None:
    done = compress("run", "mine.py:build", "--int8", "--quiet", "--out", "quiet", cwd=tiny)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "of my own\n")


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


def test_an_option_given_twice_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--pass", "int8:ranges=mse", "--pass", "int8:ranges=minmax")
    message = "error: int8: ranges is given twice; a recipe can hold a pass more than once, flags cannot\n"
    assert in_process(capsys, "run", "resnet18", *given) == (2, "", message)


def test_flags_and_recipe_are_the_same_data() -> None:
    given = {"model": "m", "weights": None, "data": None, "seed": None, "limit_train": None, "limit_eval": None, "fp16": False}
    recipe = to_recipe(
        recipe=None,
        prune=0.5,
        int8=True,
        finetune=None,
        no_finetune=False,
        extra=("finetune:lr=0.1", "int8:exclude=a,b"),
        **given,
    )
    assert recipe.passes == (
        ("prune_channels", {"ratio": 0.5}),
        ("reestimate_bn", {"allow_noop": True}),
        ("finetune", {"lr": "0.1"}),
        ("int8", {"exclude": "a,b"}),
    )
    assert recipe.implied == ("reestimate_bn", "finetune")


def test_finetuning_alone_has_no_teacher() -> None:
    recipe = to_recipe(recipe=None, prune=None, int8=False, finetune=3, no_finetune=False, extra=(), model="m")
    assert recipe.passes == (("finetune", {"epochs": 3, "distill": False}),)


def test_lists_show_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    _, zoo, _ = in_process(capsys, "zoo", "list")
    assert [line.split()[0] for line in zoo.splitlines()[1:5]] == ["resnet18", "resnet20", "resnet32", "resnet56"]
    _, shown, _ = in_process(capsys, "zoo", "show", "resnet18")
    assert yaml.safe_load(shown)["resnet18"]["accuracy"] == {"fashion-mnist": 0.93}
    _, passes, _ = in_process(capsys, "passes", "list")
    assert [line.split()[0] for line in passes.splitlines()[1:]] == list(BUILT_IN)
    _, details, _ = in_process(capsys, "passes", "show", "prune_channels")
    assert "  --pass prune_channels:ratios=none\n" in details
    assert "  --pass prune_channels:ratio=0.5" in details.splitlines()
    assert 'Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"' in details


def test_int8_logits_are_numbers(whole: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    import compress as package

    model = package.load(whole[1])
    with torch.no_grad():
        assert np.isfinite(model(torch.zeros(3, 3, 48, 48)).numpy()).all()


def test_a_plan_is_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = in_process(capsys, "plan", "resnet20", "--prune", "0.5", "--weights", str(cifar_weights(tmp_path)))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["group", "channels", "kept", "layers", "MMACs"]
    assert lines[1].split(maxsplit=5)[:3] == ["conv1", "16", "16"]
    assert lines[1].endswith("protected: padded with a fixed number of channels")
    assert "params: 269,722 -> 135,754 (0.503)" in lines
    assert lines[-2] == "protected: 1.1 % of the MACs are in layers of which nothing can be cut"
    assert lines[-1].startswith("note: 9 layers narrowed: layer1.0.conv1 16->8, ")


NET = "from compress.testing import tiny_model, tiny_task\ndef net():\n    return tiny_model(), tiny_task()\n"


def test_a_saved_plan_repeats_what_was_found_for_a_target(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, plan = tmp_path / "mine.py", tmp_path / "plan.yaml"
    file.write_text(NET)
    options = ["--pass", "prune_channels:round_to=1"]
    code, out, err = in_process(
        capsys, "plan", f"{file}:net", "--prune-target", "macs=0.5", *options, "--save", str(plan), "--threads", "2"
    )
    assert (code, err) == (0, "")
    target, narrowed, saved = out.splitlines()[-3:]
    assert target.startswith("note: target macs=0.5: 0.2996 MMACs of 0.7005 MMACs (0.428); ratio 0.3")
    assert narrowed == "note: 2 layers narrowed: stem 16->10, body 16->10"
    assert saved == f"note: the ratios are in {plan}; --prune-plan {plan} cuts the same again"
    assert plan.read_text() == f"# Repeat it with --prune-plan {plan} --pass prune_channels:round_to=1\nstem: 0.375\n"
    _, out, _ = in_process(capsys, "plan", f"{file}:net", "--prune-plan", str(plan), *options, "--json")
    assert json.loads(out)["widths"] == {"stem": [16, 10], "body": [16, 10]}


def test_a_plan_of_nothing_is_no_success(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(NET)
    options = ["--prune", "0.5", "--pass", "prune_channels:round_to=16"]
    code, out, err = in_process(capsys, "plan", f"{file}:net", *options)
    assert (code, out) == (1, "")
    assert err == (
        "error: prune_channels could remove nothing at ratio 0.5; 1 groups are too narrow for round_to 16; "
        "the model from before stands; protected are head: an output of the model\n"
    )
    options += ["--pass", "prune_channels:allow_noop=true", "--save", str(tmp_path / "plan.yaml")]
    code, _, err = in_process(capsys, "plan", f"{file}:net", *options)
    assert (code, err) == (2, "error: nothing is cut, so there is no plan to save\n")


def test_plan_takes_the_defaults_of_the_model_as_a_run_does() -> None:
    from cli import flags
    from compress.sources.source import Source

    source = Source(torch.nn.Linear(1, 1), {}, defaults={"prune_channels": {"round_to": 4, "criterion": "l1"}})
    extra = ("prune_channels:criterion=fpgm",)
    step = flags.to_pruning(prune=0.3, prune_target=None, prune_plan=None, extra=extra, threads=2)
    made = flags.make_pruning(step, source)
    assert (made.ratio, made.round_to, made.criterion, made.threads) == (0.3, 4, "fpgm", 2)


def test_sensitivity_shows_a_bar_and_saves_a_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, plan, picture = tmp_path / "mine.py", tmp_path / "plan.yaml", tmp_path / "drops.svg"
    file.write_text("from compress.testing import tiny_model, tiny_task\ndef net():\n    return tiny_model(), tiny_task()\n")
    code, out, err = in_process(
        capsys, "sensitivity", f"{file}:net", "--ratios", "0.5", "--within", "100", "--save", str(plan), "--plot", str(picture),
        "--save-rows", str(tmp_path / "rows.jsonl"),
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert picture.read_text().startswith("<?xml")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["name"], row["change"], row["ratio"]) for row in rows] == [("stem", "prune 0.50", 0.5)]
    lines = out.splitlines()
    assert lines[0].split() == ["group", "change", "accuracy", "%", "drop", "ms", "p50", "saved", "ms", "params", "M"]
    assert lines[1].split()[:3] == ["stem", "prune", "0.50"]
    assert lines[3:] == [
        "protected: head (an output of the model)",
        "suggested (at most 100 points each): {'stem': 0.5}",
        f"note: the suggested ratios are in {plan}; use them with --prune-plan {plan}",
        f"note: the picture is in {picture}",
    ]
    assert plan.read_text() == (
        "# Largest ratio of each group whose drop alone is at most 100 points, on validate data.\nstem: 0.5\n"
    )
    code, out, _ = in_process(capsys, "plan", f"{file}:net", "--prune-plan", str(plan), "--json")
    assert json.loads(out)["widths"] == {"stem": [16, 8], "body": [16, 8]}


def cifar_weights(folder: Path) -> Path:
    """A state dict with the names and shapes of ResNet-20."""
    from compress.models.cifar_resnet import resnet20

    torch.save(resnet20().state_dict(), folder / "resnet20.pt")
    return folder / "resnet20.pt"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["run", "resnet18", "--prune", "0.5", "--prune-target", "macs=0.5"], "--prune and --prune-target contradict each other; give one of them"),
        (["run", "resnet18", "--int8", "--prune-steps", "2"], "--prune-steps needs --prune or --prune-target: it says in how many steps"),
        (["run", "resnet18", "--prune-target", "latency=1ms", "--prune-steps", "2"], "--prune-steps needs a target that is a fraction of the original, such as macs=0.5, got latency=1ms"),
        (["run", "resnet18", "--prune-target", "speed=2"], "prune_channels: target must be macs, params, size or latency, got 'speed=2'. Known: macs, params, size, latency."),
        (["run", "resnet18", "--prune-plan", "nowhere.yaml"], "the plan nowhere.yaml cannot be read: No such file or directory"),
        (["plan", "resnet18"], "say how much to prune: --prune RATIO, --prune-target COST=VALUE or --prune-plan FILE"),
        (["plan", "resnet18", "--prune", "0.5", "--pass", "int8"], "only options of prune_channels can be given here, not int8"),
        (["plan", "resnet18", "--prune", "0.5", "--pass", "prune_channels:criterion=best"], "prune_channels: criterion must be one of l2, l1, fpgm, bn_scale, lamp, taylor, obd, activation, apoz, elastic_net, nuclear, random, got 'best'"),
        (["sensitivity", "resnet18", "--save", "no/a.yaml"], "no/a.yaml cannot be written: there is no folder no"),
        (["sensitivity", "resnet18", "--plot", "a.jpg"], "a picture's name ends in .png, .svg or .pdf, got a.jpg"),
        (["sensitivity", "resnet18", "--save-rows", "no/such/rows.jsonl"], "no/such/rows.jsonl cannot be written: No such file or directory"),
        (["sensitivity", "resnet18", "--ratios", "0.5,2"], "--ratios takes numbers in (0, 1), such as 0.25,0.5, got '0.5,2'"),
    ],
)  # fmt: skip
def test_mistakes_about_pruning_are_told(capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert in_process(capsys, *flags) == (2, "", f"error: {message}\n")


def test_steps_of_pruning_add_up() -> None:
    recipe = to_recipe(
        recipe=None, prune=0.5, prune_steps=2, int8=True, finetune=None, no_finetune=False, extra=(), model="resnet18"
    )
    names = [name for name, _ in recipe.passes]
    assert names == ["prune_channels", "reestimate_bn", "finetune"] * 2 + ["int8"]
    ratios = [options["ratio"] for name, options in recipe.passes if name == "prune_channels"]
    assert ratios == [0.292893, 0.5]  # of the original's channels; (1 - 0.292893)^2 is a half
    assert [options.get("allow_noop", False) for name, options in recipe.passes if name == "prune_channels"] == [True, False]
    recipe = to_recipe(
        recipe=None, prune=None, prune_target="macs=0.25", prune_steps=2, int8=False, finetune=None, no_finetune=True, extra=()
    )
    assert [options["target"] for name, options in recipe.passes if name == "prune_channels"] == ["macs=0.5", "macs=0.25"]


def test_a_plan_file_becomes_ratios(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("layer4.*: 0.5\n")
    recipe = to_recipe(
        recipe=None, prune=None, prune_plan=str(tmp_path / "plan.yaml"), int8=False, finetune=None, no_finetune=True, extra=()
    )
    assert recipe.passes[0] == ("prune_channels", {"ratio": 0.0, "ratios": {"layer4.*": 0.5}})
