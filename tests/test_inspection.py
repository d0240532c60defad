"""`inspect` of a module and of a run's folder: the same rows, the data of the run, and what cannot be inspected."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import compress
from compress import zoo
from compress.errors import UserError
from compress.inspection import Inspection, folder_task, inspect
from compress.passes.int8 import Int8
from compress.quant.layer_errors import LayerError
from compress.recipe import Recipe, resolved
from compress.run import Options, run_recipe
from compress.task import Task
from compress.testing import tiny_model, tiny_task

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}
MINE = "from compress.testing import tiny_model, tiny_task\ndef net():\n    return tiny_model(), tiny_task()\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a user's own file, whose data are its own."""
    here = tmp_path_factory.mktemp("inspection")
    (here / "mine.py").write_text(MINE)
    run_recipe(Recipe(model=f"{here}/mine.py:net", passes=(("int8", {}),)), Options(out=here / "out", timing=QUICK))
    return here / "out"


def test_a_folder_is_inspected_on_the_data_of_its_run(folder: Path) -> None:
    found = inspect(folder)
    names = [layer.name for layer in found.layers]
    assert names == ["x", "stem", "body", "add behind body", "adaptive_avg_pool2d", "head"]
    assert found.samples == 64
    assert found == inspect(compress.load(folder), tiny_task())


def test_other_data_can_be_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(
        "import torch\nfrom compress import Task\n"
        "def task():\n    x = torch.ones(5, 3, 16, 16)\n    return Task((x,), calibration=lambda: [(x,)])\n"
    )
    assert inspect(folder, folder_task(folder, f"{tmp_path}/other.py:task")).samples == 5


def written(folder: Path, recipe: Recipe, **facts: Any) -> Path:
    """A folder with all that is read before the weights are."""
    manifest = {"version": 2, "structure": {}, "quantization": {}, "aliases": {}, "preprocess": None, "labels": []}
    (folder / "manifest.json").write_text(json.dumps(manifest | facts))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(resolved(recipe, [Int8()])))
    return folder


def test_a_run_on_a_named_data_set_is_inspected_on_it_and_its_limit(tmp_path: Path) -> None:
    source = zoo.load("resnet18")
    facts = {"origin": source.origin, "preprocess": source.preprocess.to_dict(), "labels": list(source.labels)}
    folder = written(tmp_path, Recipe(data="fashion-mnist", limit_train=100, limit_eval=10), **facts)
    task, less = folder_task(folder), folder_task(folder, limit_train=50)
    assert [sum(len(x) for (x,) in each.calibration()) for each in (task, less)] == [90, 45]


def test_what_is_in_float_cannot_be_inspected(tmp_path: Path) -> None:
    written(tmp_path, Recipe(), origin={"kind": "zoo"}, quantization=None)
    message = "is in float: there are no integers to inspect; quantize it with --int8, or with the pass int8"
    with pytest.raises(UserError) as error:
        inspect(tmp_path)
    assert str(error.value) == f"{tmp_path} {message}"
    with pytest.raises(UserError) as error:
        inspect(tiny_model(), tiny_task())
    assert str(error.value) == f"the model {message}"


def test_data_that_were_python_objects_have_to_be_given_again(tmp_path: Path) -> None:
    written(tmp_path, Recipe(), origin={"kind": "module"})
    with pytest.raises(UserError) as error:
        inspect(tmp_path)
    assert str(error.value) == (
        f"the data of {tmp_path} were given as a Python object and are not on disk; give a task, or --data"
    )


def test_without_calibration_data_it_says_how_to_give_them() -> None:
    model, task = compress.apply(Int8(), tiny_model(), tiny_task()), tiny_task()
    for without in (None, Task(task.example_inputs)):
        with pytest.raises(UserError) as error:
            inspect(model, without)
        assert str(error.value) == (
            "inspecting needs calibration data, and the task has none; give Task(calibration=...), or --data with a data set"
        )
    with pytest.raises(UserError) as error:
        inspect(model, replace(task, calibration=lambda: []))
    assert str(error.value) == "inspecting needs calibration data, and they are empty"


def test_the_model_stays_as_it_is() -> None:
    model = compress.apply(Int8(), tiny_model(), tiny_task())
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        before = model(x)
        inspect(model, tiny_task())
        assert torch.equal(model(x), before)


def test_worst_first() -> None:
    def layer(name: str, own: float | None) -> LayerError:
        return LayerError(name, "conv", 8, 40.0, None, None, None, own, own, own)

    found = Inspection((layer("a", 30.0), layer("b", None), layer("c", -3.0)), 9)
    assert [each.name for each in found.worst_first()] == ["c", "a", "b"]


def test_a_notebook_shows_what_the_terminal_does() -> None:
    conv = LayerError("a<b>", "conv", 8, 40.04, -1.0, 2.5, 0.00125, 30.0, 25.0, 20.0)
    left = LayerError("head", "linear", None, None, None, None, None, None, None, 19.96)
    page = Inspection((conv, left), 64)._repr_html_()
    assert re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page) == [
        *("layer", "kind", "bits", "weight dB", "low", "high", "clipped %", "own dB", "channel dB", "all dB"),
        *("a&lt;b&gt;", "conv", "8", "40.0", "-1", "2.5", "0.125", "30.0", "25.0", "20.0"),
        *("head", "linear", "float", "-", "-", "-", "-", "-", "-", "20.0"),
    ]
    assert re.findall(r"<li>(.*?)</li>", page) == [
        "on 64 calibration samples; dB of signal over error, 20 for a tenth of error: own with this layer alone in integers, "
        "channel the same for single channels, of which half are worse, all with the whole network in integers"
    ]
    assert re.findall(r'<th scope="col" style="text-align: (\w+)"', page) == ["left", "left", *["right"] * 8]
