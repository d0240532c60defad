"""A run on a Ray cluster of this machine, one process of which is killed, beside the same run on a single process."""

import contextlib
import importlib.util
import os
import queue
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress import launch_ray, workers
from compress.artifact import Record
from compress.errors import CompressError, UserError, WorkerError
from compress.launch_ray import EXTRA, Given, run_on_ray
from compress.progress import watch
from compress.recipe import Recipe
from compress.run import Options, run_recipe

HERE = importlib.util.find_spec("ray") is not None
NEEDS_RAY = pytest.mark.skipif(not HERE, reason=f"ray is not installed, so nothing is trained on a cluster: pip install {EXTRA}")
TIMING = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.1}

# Rank 1 is killed once, in the second epoch; or fails each time.
MINE = """
import os, signal
from pathlib import Path
import torch
from compress.testing import TinyResidual, tiny_task

class Mortal(TinyResidual):
    steps = 0

    def forward(self, x):
        if self.training and os.environ.get("RANK") == "1":
            Mortal.steps += 1
            deadly, broken = (Path(__file__).with_name(name) for name in ("deadly", "broken"))
            if Mortal.steps == 7 and deadly.exists():
                deadly.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if broken.exists():
                broken.write_text(broken.read_text() + "again ")
                raise ValueError("the disk is full")
        return super().forward(x)

def build():
    torch.manual_seed(0)
    return Mortal(), tiny_task()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else whatever runs beside would starve it
    return tmp_path


@NEEDS_RAY
def test_a_cluster_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        run_on_ray(Recipe(), Options(out=tmp_path), 2, "nowhere")
    assert str(error.value).startswith("no Ray cluster answers at nowhere (")
    assert str(error.value).endswith("); start one with: ray start --head")


@NEEDS_RAY
def test_a_killed_process_is_started_again_and_the_losses_are_those_of_one_process(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "deadly").touch()
    masked = ("prune_weights", {"schedule": "cubic", "epochs": 2})
    passes = (("prune_channels", {"ratio": 0.25, "round_to": 4}), masked, ("qat", {"epochs": 1, "weight_bits": 4}))
    recipe, stages, notes = Recipe(model="mine.py:build", passes=passes), list[str](), list[str]()
    options = Options(out=Path("run"), device="cpu", timing=TIMING, on_note=notes.append)
    options = replace(options, on_stage=lambda record: stages.append(record.name))
    found = run_on_ray(recipe, options, 2, "local")
    assert not (place / "deadly").exists()
    lost, gone_on = notes
    assert lost.startswith("lost rank 1: ") and lost.endswith("; Ray starts all processes again, 1 of 3 times")
    assert gone_on == "prune_weights goes on behind epoch 1 of 2"
    assert capfd.readouterr() == ("", "")
    assert stages == ["baseline", "prune_channels", "prune_weights", "qat"]
    assert " on 2 processes, resumed behind epoch 1, " in " ".join(found.report["stages"][2]["notes"])
    assert not (place / "run" / launch_ray.NOTES).exists()

    single = run_recipe(recipe, Options(device="cpu", timing=TIMING))
    curves = [
        [e["loss"] for stage in run.report["stages"] for e in stage["details"].get("training", ())] for run in (found, single)
    ]
    assert len(curves[0]) == 3
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    state = single.model.state_dict()
    assert all((tensor - state[name]).abs().max() < 1e-3 for name, tensor in found.model.state_dict().items())


@NEEDS_RAY
def test_a_process_that_fails_is_named_and_not_started_again(place: Path) -> None:
    (place / "broken").touch()
    recipe = Recipe(model="mine.py:build", passes=(("finetune", {"epochs": 1, "distill": False}),))
    with pytest.raises(WorkerError) as error:
        run_on_ray(recipe, Options(out=Path("run"), device="cpu", timing=TIMING), 2, "local")
    assert str(error.value) == "rank 1 failed: ValueError: the disk is full"
    assert (place / "broken").read_text() == "again "


def test_a_missing_ray_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError) as error:
        run_on_ray(Recipe(), Options(out=tmp_path), 2, "local")
    assert str(error.value) == "ray is not installed; install it with: pip install 'compress-toolkit[ray]'"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_where_nothing_listens_is_told_at_once(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UserError) as error, launch_ray._connected(None, f"{host}:{port}", 2):
        pass
    refused = "ConnectionRefusedError: [Errno 111] Connection refused"
    assert str(error.value) == f"no Ray cluster answers at {host}:{port} ({refused}); start one with: ray start --head"


def test_there_must_be_a_folder() -> None:
    with pytest.raises(UserError) as error:
        run_on_ray(Recipe(), Options(), 2, "local")
    assert str(error.value) == "a run on a cluster needs a folder that all of its machines see; give one as out"


def test_processes_are_started_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "count", lambda: 4)
    with pytest.raises(UserError) as error:
        run_on_ray(Recipe(), Options(out=tmp_path), 2, "local")
    assert str(error.value) == "torchrun has already started 4 processes; leave --ray out"


def test_a_cluster_of_this_machine_has_no_more_processes_than_its_cores_can_carry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch_ray, "available_cores", lambda: 2)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)  # the next that is told where nothing is refused
    said = []
    for address, count in (("local", 9), ("local", 8), ("auto", 9)):
        with pytest.raises(UserError) as error:
            run_on_ray(Recipe(), Options(out=tmp_path), count, address)
        said.append(str(error.value))
    missing = "ray is not installed; install it with: pip install 'compress-toolkit[ray]'"
    many = "9 processes are more than 4 per core (cores that this run may use: 2); --processes 2 is enough for them"
    assert said == [many, missing, missing]


@pytest.mark.parametrize(
    ("there", "device", "gpus", "said"),
    [
        ({"CPU": 2.0}, "auto", False, []),
        ({"CPU": 2.0, "GPU": 1.0}, "auto", False, []),
        ({"CPU": 2.0, "GPU": 2.0}, "auto", True, []),
        ({"CPU": 2.0, "GPU": 2.0}, "cpu", False, []),
        ({"CPU": 1.0}, "cpu", False, ["2 processes need as many CPUs, and the cluster has 1: waiting for more"]),
        ({"CPU": 2.0}, "cuda", True, ["2 processes need as many GPUs, and the cluster has 0: waiting for more"]),
    ],
)
def test_gpus_are_used_where_there_are_enough(there: dict[str, float], device: str, gpus: bool, said: list[str]) -> None:
    notes: list[str] = []
    assert launch_ray._on_gpus(there, Options(device=device, on_note=notes.append), 2) is gpus
    assert notes == said


def test_an_unknown_device_is_told() -> None:
    with pytest.raises(UserError) as error:
        launch_ray._on_gpus({"CPU": 2.0}, Options(device="tpu"), 2)
    assert str(error.value) == "device must be auto, cpu or cuda, got 'tpu'"


@pytest.mark.parametrize("missing", ["place", "out"])
def test_a_machine_that_does_not_see_the_folders_is_named(tmp_path: Path, missing: str) -> None:
    folders = {"place": tmp_path, "out": tmp_path} | {missing: tmp_path / "elsewhere"}
    with pytest.raises(UserError) as error:
        launch_ray._go_to(Given(Recipe(), Options(out=folders["out"]), folders["place"], None))
    assert str(error.value) == f"{tmp_path / 'elsewhere'} is not there on {socket.gethostname()}: {launch_ray.SHARED}"


def test_a_run_that_is_there_stays_until_a_new_one_begins(tmp_path: Path) -> None:
    report, notes = tmp_path / "run" / "report.json", tmp_path / "run" / launch_ray.NOTES
    with launch_ray._prepared(report.parent, Options()):
        report.touch()
    with pytest.raises(UserError) as error, launch_ray._prepared(report.parent, Options()):
        pass
    kept = "choose another --out, continue it with --resume, or replace it with --force"
    assert str(error.value) == f"{report.parent} is not empty; {kept}"
    notes.mkdir()  # by a run that was killed
    with launch_ray._prepared(report.parent, Options(force=True)):
        assert [*report.parent.iterdir()] == [report]
        notes.mkdir()
    assert [*report.parent.iterdir()] == [report]


def test_a_folder_where_nothing_began_is_gone(tmp_path: Path) -> None:
    with pytest.raises(EOFError), launch_ray._prepared(tmp_path / "run", Options()):
        raise EOFError
    assert not (tmp_path / "run").exists()


def test_what_is_there_is_replaced_until_the_first_stage_is_done_and_then_continued(tmp_path: Path) -> None:
    said: list[tuple[str, Record]] = []
    given, record = Options(out=tmp_path, force=True), Record("baseline", {}, 0.0, None, None, 1, 1, 1, 1, {})
    starts = [launch_ray._at_this_start(given, lambda *words: said.append(words)) for _ in range(2)]
    starts[1].on_stage(record)
    starts += [launch_ray._at_this_start(options, print) for options in (given, Options(out=tmp_path))]
    assert [(start.force, start.resume) for start in starts] == [(True, False), (True, False), (False, True), (False, True)]
    assert said == [("stage", record)]


class Screen(queue.Queue[tuple[str, tuple[Any, ...]]]):
    """A queue as Ray's is, here in this process."""


class Trainer:
    def __init__(self, screen: Screen, error: Exception | None) -> None:
        self.screen, self.error = screen, error

    def fit(self) -> None:
        for said in (("note", ("one",)), ("progress", ("two", 1, 2, "")), ("note", ("three",))):
            self.screen.put(said)
        if isinstance(self.error, CompressError):
            self.screen.put(("failed", (self.error,)))
            threading.Event().wait(60)  # as processes that wait for one that has failed
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [None, UserError("no such file"), KeyError("of Ray's own")])
def test_all_that_was_said_is_shown_before_the_end(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    monkeypatch.setattr(launch_ray, "PAUSE", 0.01)
    shown: list[str] = []
    screen = Screen()
    ends = contextlib.nullcontext() if error is None else pytest.raises(type(error), match=str(error))
    with watch(lambda what, *_: shown.append(what)), ends:
        launch_ray._follow(Trainer(screen, error), screen, Options(on_note=shown.append))
    assert shown == ["one", "two", "three"]


def test_progress_is_passed_on_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.0, 10.5, 11.0, 11.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    seen: list[int] = []
    tell = launch_ray._seldom(lambda what, done, total, note: seen.append(done))
    for step in (1, 2, 3):
        tell("train", step, 3, "")
    assert seen == [1, 3]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (UserError("no such file"), ["UserError: no such file"]),
        (ValueError("the disk is full\nmore"), ["WorkerError: rank 3 failed: ValueError: the disk is full"]),
        (WorkerError("a process was lost"), []),
    ],
)
def test_what_fails_is_said_by_the_process_where_it_failed(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, said: list[str]
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(workers, "joined_as_launched", fail)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    screen = Screen()
    launch_ray._work({"given": Given(Recipe(), Options(), Path(), screen)})
    found = [screen.get_nowait() for _ in range(screen.qsize())]
    assert [(kind, f"{type(error).__name__}: {error}") for kind, (error,) in found] == [("failed", text) for text in said]
    assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True"
