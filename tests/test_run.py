"""A whole run: its folder, its report, what it says, and that a killed one goes on where it stopped."""

import csv
import hashlib
import importlib.resources
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
import yaml

import compress
from compress import zoo
from compress.artifact import Artifact, Record
from compress.errors import PassError, UserError
from compress.folder import RunFolder
from compress.outputs import predictor
from compress.passes.finetune import Finetune
from compress.passes.int8 import Int8
from compress.passes.prune_channels import PruneChannels
from compress.passes.reestimate_bn import ReestimateBatchNorm
from compress.recipe import Recipe, resolved
from compress.testing import tiny_model, tiny_task

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}
PASSES = [PruneChannels(0.5, round_to=4), ReestimateBatchNorm(), Finetune(epochs=2, lr=0.01), Int8()]
FILES = {
    "model.onnx",
    "baseline.onnx",
    "model.safetensors",
    "manifest.json",
    "recipe.yaml",
    "report.json",
    "report.md",
    "report.html",
}
FILES |= {"training.csv"}  # of runs that trained


@pytest.fixture(scope="module")
def given() -> torch.nn.Module:
    """The model that is given to the run `finished`."""
    return tiny_model()


@pytest.fixture(scope="module")
def finished(given: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> compress.Run:
    folder = tmp_path_factory.mktemp("run") / "out"
    return compress.run(given, tiny_task(), PASSES, out=folder, timing=QUICK)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> compress.Run:
    """A run of the pass int8 alone, started by `resume` on a folder that is not there yet."""
    folder = tmp_path_factory.mktemp("small") / "out"
    return compress.run(tiny_model(), tiny_task(), [Int8()], out=folder, resume=True, timing=QUICK)


def test_the_folder_holds_everything_and_nothing_else(finished: compress.Run) -> None:
    assert {path.name for path in finished.folder.iterdir()} == FILES
    assert json.loads((finished.folder / "report.json").read_text()) == finished.report


def test_every_epoch_is_in_the_csv_and_in_the_report(finished: compress.Run) -> None:
    rows = list(csv.DictReader((finished.folder / "training.csv").open()))
    assert [(row["stage"], row["number"], row["steps"], row["samples"]) for row in rows] == [
        ("finetune", "1", "4", "64"),
        ("finetune", "2", "8", "128"),
    ]
    stage = next(stage for stage in finished.report["stages"] if stage["name"] == "finetune")
    assert [float(row["loss"]) for row in rows] == [epoch["loss"] for epoch in stage["details"]["training"]]


def test_the_report_keeps_to_its_schema(finished: compress.Run) -> None:
    schema = json.loads(importlib.resources.files("compress.report").joinpath("schema.json").read_text())
    jsonschema.validate(finished.report, schema)
    assert [stage["name"] for stage in finished.report["stages"]] == [
        "baseline",
        "prune_channels",
        "reestimate_bn",
        "finetune",
        "int8",
    ]
    assert finished.report["input_shape"] == [[1, 3, 16, 16]]


def test_the_report_says_what_a_few_lines_of_onnxruntime_find(finished: compress.Run) -> None:
    """Accuracy, size and MACs once more, without this package's own measuring code."""
    for file, stage in (("baseline.onnx", finished.report["stages"][0]), ("model.onnx", finished.report["stages"][-1])):
        session = onnxruntime.InferenceSession(str(finished.folder / file), providers=["CPUExecutionProvider"])
        right = [(session.run(None, {"input": x.numpy()})[0].argmax(1) == y.numpy()).mean() for x, y in tiny_task().train()]
        assert stage["accuracy"] == pytest.approx(float(np.mean(right)), abs=1e-9)
        assert stage["size_bytes"] == (finished.folder / file).stat().st_size
    assert finished.report["stages"][0]["macs"] == 16 * 16 * 9 * (3 * 16 + 16 * 16) + 16 * 4
    assert finished.report["stages"][-1]["macs"] == 16 * 16 * 9 * (3 * 8 + 8 * 8) + 8 * 4
    summary, first, last = finished.report["summary"], finished.report["stages"][0], finished.report["stages"][-1]
    assert summary["size_ratio"] == first["size_bytes"] / last["size_bytes"]
    assert summary["accuracy_drop"] == first["accuracy"] - last["accuracy"]


def test_integers_are_counted_in_the_executed_graph(finished: compress.Run) -> None:
    assert finished.report["integer_coverage"] == {
        **{"conv": [2, 2], "linear": [1, 1], "product": [0, 0], "add": [1, 1], "embedding": [0, 0]},
        "left_in_float": [],
    }


def test_a_layer_left_in_float_by_option_is_missing_and_named(tmp_path: Path) -> None:
    run = compress.run(tiny_model(), tiny_task(), [Int8(exclude=("body",))], out=tmp_path / "out", timing=QUICK)
    coverage = run.report["integer_coverage"]
    assert (coverage["conv"], coverage["linear"]) == ([1, 2], [1, 1])
    assert {"name": "body", "reason": "left in float by option"} in coverage["left_in_float"]
    assert "body stays in float: left in float by option" in (run.folder / "report.md").read_text()


def test_load_rebuilds_the_model_bit_by_bit(finished: compress.Run) -> None:
    loaded = compress.load(finished.folder, model=tiny_model())
    x = torch.randn(5, 3, 16, 16)
    assert np.array_equal(predictor(loaded)(x), predictor(finished.model)(x))


def test_load_without_the_architecture_says_how_to_give_it(finished: compress.Run) -> None:
    with pytest.raises(UserError) as error:
        compress.load(finished.folder)
    assert str(error.value) == (
        "the model was given as a Python object, so its architecture is not on disk; give it: load(DIR, model=...)"
    )


def test_a_run_without_a_folder_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = compress.run(tiny_model(), tiny_task(), [Int8()], timing=QUICK)
    assert run.folder is None
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_replaced_only_by_force(small: compress.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(small.folder, tmp_path / "out")
    with pytest.raises(UserError) as error:
        compress.run(tiny_model(), tiny_task(), [Int8()], out=folder, timing=QUICK)
    assert str(error.value) == (
        f"{folder} is not empty; choose another --out, continue it with --resume, or replace it with --force"
    )
    compress.run(tiny_model(), tiny_task(), [PruneChannels(0.5)], out=folder, force=True, timing=QUICK)
    assert [next(iter(step)) for step in yaml.safe_load((folder / "recipe.yaml").read_text())["passes"]] == ["prune_channels"]


def test_force_never_removes_what_no_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError) as error:
        compress.run(tiny_model(), tiny_task(), [Int8()], out=tmp_path, force=True, timing=QUICK)
    assert str(error.value) == f"{tmp_path} holds 'thesis.tex', which no run wrote; --force replaces only the files of a run"
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


class Fails(PruneChannels):
    """Fails while `broken` is set, as a pass would whose process was killed."""

    broken: ClassVar[bool] = True

    def apply(self, artifact: Artifact) -> torch.nn.Module:
        if self.broken:
            raise PassError("the power went out")
        return super().apply(artifact)


def numbers(report: dict) -> list:
    """What must be equal between two runs: everything but times, and the word on where a training was resumed."""
    stages = [{k: v for k, v in stage.items() if k not in ("seconds", "latency_ms", "details")} for stage in report["stages"]]
    for stage, given in zip(stages, report["stages"], strict=True):
        epochs = given["details"].get("training", [])
        stage["notes"] = [re.sub(r", resumed behind epoch \d+", "", note) for note in stage["notes"]]
        stage["training"] = [{k: v for k, v in epoch.items() if k not in ("seconds", "waiting")} for epoch in epochs]
    return [stages, report["parity"], report["integer_coverage"], report["summary"]["accuracy_drop"]]


def test_resume_continues_behind_the_last_finished_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [PruneChannels(0.25, round_to=4), Finetune(epochs=1, lr=0.01), Fails(0.3, round_to=4), Int8()]
    started: list[str] = []
    with pytest.raises(PassError, match="the power went out"):
        compress.run(tiny_model(), tiny_task(), steps, out=tmp_path / "out", timing=QUICK)
    monkeypatch.setattr(Fails, "broken", False)
    monkeypatch.setattr("compress.passes.recovery.fit", lambda *_, **__: started.append("training"))
    resumed = compress.run(tiny_model(), tiny_task(), steps, out=tmp_path / "out", resume=True, timing=QUICK)
    monkeypatch.undo()
    monkeypatch.setattr(Fails, "broken", False)
    whole = compress.run(tiny_model(), tiny_task(), steps, out=tmp_path / "whole", timing=QUICK)
    assert started == []
    assert numbers(resumed.report) == numbers(whole.report)
    x = torch.randn(5, 3, 16, 16)
    assert np.array_equal(predictor(resumed.model)(x), predictor(whole.model)(x))
    for name in ("model.onnx", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_resume_on_an_empty_folder_starts_and_on_a_finished_one_reports(small: compress.Run) -> None:
    seen: list[str] = []
    options = {"resume": True, "timing": QUICK, "on_stage": lambda record: seen.append(record.name)}
    again = compress.run(tiny_model(), tiny_task(), [Int8()], out=small.folder, **options)
    assert [stage["name"] for stage in small.report["stages"]] == ["baseline", "int8"]
    assert (seen, again.report) == ([], small.report)


@pytest.mark.parametrize(
    ("passes", "seed", "what"),
    [
        ([Int8(ranges="minmax")], 0, "int8 ranges auto, not minmax"),
        ([Int8()], 1, "seed 0, not 1"),
        ([PruneChannels(), Int8()], 0, "passes int8, not prune_channels int8"),
    ],
)
def test_resume_refuses_other_options_by_name(small: compress.Run, passes: list, seed: int, what: str) -> None:
    with pytest.raises(UserError) as error:
        compress.run(tiny_model(), tiny_task(), passes, seed=seed, out=small.folder, resume=True, timing=QUICK)
    expected = f"{small.folder} was started with {what}; resume it with the same options, or start anew with --force"
    assert str(error.value) == expected


def test_resume_notices_that_a_weight_file_has_other_content(tmp_path: Path) -> None:
    weights, file = tmp_path / "net.pt", tmp_path / "net.py"
    file.write_text("from compress.testing import tiny_model, tiny_task\ndef net():\n    return tiny_model(), tiny_task()\n")
    folder, origins = RunFolder(tmp_path / "out"), []
    for factor in (1, 2):
        torch.save({name: tensor * factor for name, tensor in tiny_model().state_dict().items()}, weights)
        source = zoo.load(f"{file}:net", str(weights))
        origins.append(source.origin)
    assert origins[0]["weights_sha256"] != origins[1]["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    artifact = Artifact.start(source.model, source.task)
    record = Record("baseline", {}, 0.0, None, None, 1, 1, 1, 1, {})
    stage = folder.stages / "00-baseline"
    stage.mkdir(parents=True)
    folder.keep(replace(artifact, history=(record,)), stage, origins[0])
    assert folder.restore(artifact, stage, origins[0]).history == (record,)
    with pytest.raises(UserError) as error:
        folder.restore(artifact, stage, origins[1])
    assert str(error.value) == (
        f"the model's source has changed since {tmp_path / 'out'} was started; restore it, or start anew with --force"
    )


def test_resume_tells_two_steps_of_one_pass_apart(tmp_path: Path) -> None:
    twice = [PruneChannels(0.25, round_to=4), PruneChannels(0.3, round_to=4)]
    other = [PruneChannels(0.2, round_to=4), twice[1]]
    RunFolder(tmp_path).write_recipe(resolved(Recipe(model="TinyResidual"), twice))
    with pytest.raises(UserError) as error:
        compress.run(tiny_model(), tiny_task(), other, out=tmp_path, resume=True, timing=QUICK)
    assert str(error.value).startswith(f"{tmp_path} was started with prune_channels ratio 0.25, not 0.2; ")


KILLED = """
import sys
import compress
from compress.testing import tiny_model, tiny_task
from tests_run import PASSES, QUICK
compress.run(tiny_model(), tiny_task(), PASSES, out=sys.argv[1], resume=True, timing=QUICK)
"""


@pytest.mark.parametrize("stage", ["00-baseline", "02-reestimate_bn", "03-finetune/training.pt", "04-int8"])
def test_a_killed_run_resumes_with_the_same_numbers(tmp_path: Path, finished: compress.Run, stage: str) -> None:
    """SIGKILL as soon as the stage's folder appears, or the state of its training, while the model is being worked on."""
    folder = tmp_path / "out"
    script = KILLED.replace(
        "from tests_run import", f"import sys as s; s.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_run import"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (folder / ".stages" / stage).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (folder / "report.json").exists(), process.stderr.read().decode()
    resumed = compress.run(tiny_model(), tiny_task(), PASSES, out=folder, resume=True, timing=QUICK)
    assert numbers(resumed.report) == numbers(finished.report)
    assert {path.name for path in folder.iterdir() if not path.name.endswith(".tmp")} == FILES


def test_the_model_that_was_given_is_never_changed(given: torch.nn.Module, finished: compress.Run) -> None:
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in tiny_model().state_dict().items())


def test_half_precision_is_written_and_checked(tmp_path: Path) -> None:
    run = compress.run(tiny_model(), tiny_task(), [Int8()], out=tmp_path / "out", fp16=True, timing=QUICK)
    assert run.report["fp16"]["parity"]["top1_agreement"] >= 0.98
    assert (tmp_path / "out" / "model-fp16.onnx").stat().st_size == run.report["fp16"]["size_bytes"]
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model-fp16.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(float16)"


def test_a_gpu_that_is_not_there_is_the_users_mistake() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError) as error:
        compress.run(tiny_model(), tiny_task(), [Int8()], device="cuda")
    assert str(error.value) == "device cuda was asked for, but torch sees no GPU here; use cpu or auto"


def test_a_run_shows_itself_as_its_table_and_its_lines(finished: compress.Run) -> None:
    lines = repr(finished).splitlines()
    assert lines[0].startswith("| stage ") and [line.split()[1] for line in lines[2:7]] == [
        stage["name"] for stage in finished.report["stages"]
    ]
    assert lines[-3].startswith("gained: ") and lines[-2].startswith("lost: ") and lines[-1] == f"files: {finished.folder}"
    assert repr(finished.plot) == "RunPlots()"
