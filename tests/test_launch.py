"""A run on two processes of this machine, one of which is killed, and the run that goes on from there."""

import csv
import multiprocessing
import sys
from pathlib import Path

import pytest

from compress import workers
from compress.errors import UserError, WorkerError
from compress.launch import run_on_processes
from compress.recipe import Recipe
from compress.run import Options

# Rank 0 is this process; one that another has started is rank 1.
MINE = """
import multiprocessing, os, signal
from pathlib import Path
from compress.testing import TinyResidual, tiny_task

class Mortal(TinyResidual):
    steps = 0

    def forward(self, x):
        if self.training and multiprocessing.parent_process() is not None:
            print("not to be seen")
            self.steps += 1
            if self.steps == 7 and Path(__file__).with_name("deadly").exists():
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

def build():
    return Mortal(), tiny_task()
"""


def test_a_killed_process_is_named_and_the_run_goes_on_behind_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "deadly").touch()
    out = tmp_path / "run"
    recipe = Recipe(model=f"{tmp_path / 'mine.py'}:build", passes=(("finetune", {"epochs": 2, "distill": False}),))
    timing = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.1}
    with pytest.raises(WorkerError) as error:
        run_on_processes(recipe, Options(out=out, timing=timing, device="cpu"), 2)
    assert str(error.value) == f"rank 1 of 2 processes was killed by SIGKILL; {workers.CONTINUE}"
    kept = out / ".stages" / "01-finetune" / "training.csv"
    before = list(csv.reader(kept.open()))
    assert len(before) == 2  # the heading, and the first of two epochs of four steps
    (tmp_path / "deadly").unlink()
    said: list[str] = []
    done = run_on_processes(recipe, Options(out=out, timing=timing, device="cpu", resume=True, on_note=said.append), 2)
    assert said == ["finetune goes on behind epoch 1 of 2"]
    epochs = done.report["stages"][1]["details"]["training"]
    assert [(epoch["number"], epoch["steps"], epoch["samples"]) for epoch in epochs] == [(1, 4, 64), (2, 8, 128)]
    assert [str(value) for value in list(epochs[0].values())[:4]] == before[1][:4]  # not trained again
    assert "8 steps, 128 samples in " in done.report["stages"][1]["notes"][0]
    assert " on 2 processes" in done.report["stages"][1]["notes"][0]
    assert multiprocessing.active_children() == []
    assert capfd.readouterr() == ("", "")


def test_processes_are_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count", lambda: 4)
    with pytest.raises(UserError) as error:
        run_on_processes(Recipe(), Options(), 2)
    assert str(error.value) == "torchrun has already started 4 processes; leave --processes out"


@pytest.mark.parametrize("cores", [1, 2])
def test_more_processes_than_cores_can_carry_are_refused_before_one_is_started(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    def begin(*_: object, **__: object) -> None:
        raise EOFError  # what comes before the first of them is started

    monkeypatch.setattr("compress.launch.TCPStore", begin)
    monkeypatch.setattr("compress.launch.available_cores", lambda: cores)
    with pytest.raises(UserError) as error:
        run_on_processes(Recipe(), Options(), 4 * cores + 1)
    told = f"{4 * cores + 1} processes are more than 4 per core (cores that this run may use: {cores}); "
    assert str(error.value) == told + f"--processes {cores} is enough for them"
    with pytest.raises(EOFError):
        run_on_processes(Recipe(), Options(), 4 * cores)


def test_a_process_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("compress.launch._work", sys.exit)  # which takes fewer arguments
    with pytest.raises(WorkerError) as error:
        run_on_processes(Recipe(), Options(), 2)
    assert str(error.value) == "rank 1 of 2 processes did not start: exit code 1"
    assert "TypeError" in capfd.readouterr().err
