"""MODEL and --data as `FILE.py:FUNCTION`: the user's own code, with its mistakes told by line."""

from pathlib import Path

import pytest
import torch

from compress import zoo
from compress.errors import UserError
from compress.sources import python_file

MODEL = """
import torch
from torch import nn
from compress import Task

def net():
    return nn.Linear(4, 3)

def with_task():
    return net(), Task(example_inputs=(torch.ones(2, 4),))

def task():
    return Task(example_inputs=(torch.ones(3, 4),))

def number():
    return 3

def pair():
    return net(), "task"

def nothing():
    pass

def fails():
    x = torch.ones(2)
    return x.reshape(5)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    return path


def test_a_module_or_a_module_with_its_task(file: Path) -> None:
    alone = zoo.load(f"{file}:net")
    assert isinstance(alone.model, torch.nn.Linear)
    assert alone.task is None
    assert not alone.model.training
    both = zoo.load(f"{file}:with_task")
    assert zoo.load_task(both, None) is both.task
    assert zoo.load_task(both, f"{file}:task").example_inputs[0].shape == (3, 4)


def test_weights_are_loaded_into_the_users_model(file: Path, tmp_path: Path) -> None:
    expected = torch.nn.Linear(4, 3)
    torch.save(expected.state_dict(), tmp_path / "w.pth")
    assert torch.equal(zoo.load(f"{file}:net", str(tmp_path / "w.pth")).model.weight, expected.weight)


def test_neighbours_can_be_imported_and_the_path_is_left_as_it_was(tmp_path: Path) -> None:
    import sys

    (tmp_path / "neighbour_of_mine.py").write_text("WIDTH = 7\n")
    (tmp_path / "mine.py").write_text(
        "from neighbour_of_mine import WIDTH\nfrom torch import nn\ndef net():\n    return nn.Linear(WIDTH, 1)\n"
    )
    before = list(sys.path)
    assert zoo.load(f"{tmp_path}/mine.py:net").model.in_features == 7
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ned", "{file} has no function 'ned'. Did you mean 'net'?"),
        ("", "'{file}:' names no function; write {file}:FUNCTION, which returns an nn.Module or (model, Task)"),
        ("number", "{file}:number returned a int; an nn.Module or (model, Task) is needed"),
        ("pair", "{file}:pair returned (Linear, str); an nn.Module or (model, Task) is needed"),
        ("nothing", "{file}:nothing returned None; an nn.Module or (model, Task) is needed"),
        ("fails", "{file}, line 26: RuntimeError: shape '[5]' is invalid for input of size 2"),
    ],
)
def test_what_a_function_does_wrong_is_told(file: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        zoo.load(f"{file}:{name}")
    assert str(error.value) == message.format(file=file)


def test_files_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        zoo.load(f"{tmp_path}/gone.py:net")
    assert str(error.value) == f"no such file: {tmp_path}/gone.py"
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1\ndef net(:\n")
    with pytest.raises(UserError) as error:
        zoo.load(f"{broken}:net")
    assert str(error.value) == f"{broken}, line 2: SyntaxError: invalid syntax (broken.py, line 2)"


def test_a_function_that_should_return_a_task(file: Path) -> None:
    source = zoo.load(f"{file}:net")
    with pytest.raises(UserError) as error:
        zoo.load_task(source, f"{file}:number")
    assert str(error.value) == f"{file}:number returned a int; a Task is needed"


def test_a_rebuild_refuses_a_changed_or_missing_file(file: Path) -> None:
    origin = zoo.load(f"{file}:net").origin
    assert origin == {"kind": "file", "path": str(file), "function": "net", "sha256": python_file.sha256(file)}
    assert isinstance(zoo.rebuild(origin), torch.nn.Linear)
    file.write_text(MODEL + "\n")
    with pytest.raises(UserError) as error:
        zoo.rebuild(origin)
    assert str(error.value) == (
        f"the model was built by {file}, which has changed since; restore it, or give load(DIR, model=...)"
    )
    file.unlink()
    with pytest.raises(UserError) as error:
        zoo.rebuild(origin)
    assert str(error.value) == f"the model was built by {file}, which is gone; give the architecture with load(DIR, model=...)"
