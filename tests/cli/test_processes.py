"""How many processes train, as the command line takes it, and which of them speaks."""

import contextlib
import logging
import warnings
from typing import Any

import pytest

from cli.main import main
from compress.errors import UserError


def spoken(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    disabled = logging.root.manager.disable  # the command line silences libraries for its whole process, which here is ours
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        main(["run", "resnet18", "--int8", *arguments])
    logging.disable(disabled)
    streams = capsys.readouterr()
    return int(stopped.value.code or 0), streams.out, streams.err


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(recipe: Any, options: Any, count: int) -> None:
        raise UserError(f"{count} would train {recipe.model}")

    def refuse_on_ray(recipe: Any, options: Any, count: int, address: str) -> None:
        raise UserError(f"{count} would train {recipe.model} at {address}")

    monkeypatch.setattr("compress.launch.run_on_processes", refuse)
    monkeypatch.setattr("compress.launch_ray.run_on_ray", refuse_on_ray)


@pytest.mark.parametrize(("flags", "count"), [((), 1), (("--processes", "3"), 3)])
def test_their_number_is_handed_on(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], count: int) -> None:
    assert spoken(capsys, *flags) == (2, "", f"error: {count} would train resnet18\n")


def test_a_cluster_is_handed_on(capsys: pytest.CaptureFixture[str]) -> None:
    said = spoken(capsys, "--ray", "head:6379", "--processes", "3")
    assert said == (2, "", "error: 3 would train resnet18 at head:6379\n")


def test_there_is_at_least_one(capsys: pytest.CaptureFixture[str]) -> None:
    told = "error: Invalid value for '--processes': 0 is not in the range x>=1.\n"
    assert spoken(capsys, "--processes", "0") == (2, "", told)


@pytest.mark.parametrize(("leads", "said"), [(True, (2, "", "error: 1 would train resnet18\n")), (False, (1, "", ""))])
def test_of_those_that_torchrun_starts_rank_0_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], leads: bool, said: tuple[int, str, str]
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("compress.workers.joined_as_launched", contextlib.nullcontext)
    monkeypatch.setattr("compress.workers.first", lambda: leads)
    assert spoken(capsys) == said
