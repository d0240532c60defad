"""MODEL and --data by name: what is found, what fits together, and what is said of the rest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress import zoo
from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.models.cifar_resnet import resnet20
from compress.models.resnet import resnet18
from compress.sources.source import Source
from compress.sources.zoo_file import entries

FORMS = "fashion-mnist, fashion-mnist-full, imagefolder:DIR, npz:FILE, jsonl:FILE, FILE.py:FUNCTION"


def source(classes: int = 10, **more: object) -> Source:
    """As `compress eval` has it: what is known about a model, without the model."""
    known = {"origin": {"kind": "zoo", "classes": classes}, "preprocess": Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3), **more}
    return Source(model=nn.Module(), **known)


def npz(folder: Path, classes: int, *shape: int) -> str:
    images = np.zeros((classes * 2, *shape), np.uint8)
    np.savez(folder / "data.npz", xte=images, yte=np.arange(classes * 2) % classes)
    return f"npz:{folder / 'data.npz'}"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet81", "unknown model 'resnet81'. Did you mean 'resnet18'?"),
        ("huggingface:x/y", None),
        ("torchvison:resnet18", "unknown model 'torchvison:resnet18'. Did you mean 'torchvision:NAME'?"),
        ("tim:resnet18", "unknown model 'tim:resnet18'. Did you mean 'timm:NAME'?"),
    ],
)
def test_unknown_models(spec: str, message: str | None) -> None:
    with pytest.raises(UserError) as error:
        zoo.load(spec)
    forms = "hf:ID_OR_FOLDER, torchvision:NAME, timm:NAME, FILE.py:FUNCTION"
    assert str(error.value) == (message or f"unknown model '{spec}'. Known: {', '.join(zoo.names())}, {forms}.")


def test_a_folder_without_its_prefix(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError) as error:
        zoo.load(str(tmp_path))
    assert str(error.value) == f"'{tmp_path}' is a folder; load it as hf:{tmp_path}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, f"this model has no default data set; give one with --data: {FORMS}"),
        ("fashion-mnst", "unknown data set 'fashion-mnst'. Did you mean 'fashion-mnist'?"),
        ("imagfolder:/data", "unknown data set 'imagfolder:/data'. Did you mean 'imagefolder:DIR'?"),
        ("cifar", f"unknown data set 'cifar'. Known: {FORMS}."),
        ("imagefolder", "imagefolder needs a folder: imagefolder:DIR"),
        ("npz:", "npz needs a file: npz:FILE"),
        ("fashion-mnist:/data", "fashion-mnist is bundled and takes no folder; did you mean 'fashion-mnist-full:/data'?"),
        ("jsonl:a.jsonl", "'jsonl:a.jsonl' needs a model with a tokenizer, and this one has none: it is no text model"),
    ],
)
def test_data_that_cannot_be_had(data: str | None, message: str) -> None:
    with pytest.raises(UserError) as error:
        zoo.load_task(source(), data)
    assert str(error.value) == message


def test_a_file_or_folder_without_its_prefix(tmp_path: Path) -> None:
    npz(tmp_path, 2, 3, 8, 8)
    for path, form in ((tmp_path, "imagefolder"), (tmp_path / "data.npz", "npz")):
        with pytest.raises(UserError) as error:
            zoo.load_task(source(), str(path))
        assert str(error.value) == f"unknown data set '{path}'. Did you mean '{form}:{path}'?"


def test_a_model_without_preprocessing_needs_a_task_of_its_own() -> None:
    with pytest.raises(UserError) as error:
        zoo.load_task(source(preprocess=None), "fashion-mnist")
    assert str(error.value) == (
        "nothing is known about the images that this model takes; "
        "give a Task with --data FILE.py:FUNCTION instead of 'fashion-mnist'"
    )


def test_a_text_model_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    origin = {"kind": "hub", "task": "text", "folder": str(tmp_path), "config": {}, "classes": 2, "inputs": ["input_ids"]}
    with pytest.raises(UserError) as error:
        zoo.load_task(source(origin=origin), "jsonl:a.jsonl")
    assert (
        str(error.value) == "'jsonl:a.jsonl' needs a model with a tokenizer, and this one has none: its folder holds no tokenizer"
    )


def test_more_classes_than_outputs(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        zoo.load_task(source(classes=4), "fashion-mnist")
    assert str(error.value) == "class-count mismatch: 'fashion-mnist' has 10 classes (0 to 9), the model has 4 outputs"
    spec = npz(tmp_path, 12, 3, 8, 8)
    with pytest.raises(UserError) as error:
        zoo.load_task(source(), spec)
    assert str(error.value) == f"class-count mismatch: '{spec}' has 12 classes (0 to 11), the model has 10 outputs"


def test_fashion_mnist_on_a_model_of_a_thousand_classes_is_a_mistake() -> None:
    with pytest.raises(UserError) as error:
        zoo.load_task(source(classes=1000), "fashion-mnist")
    assert str(error.value) == "class-count mismatch: 'fashion-mnist' has 10 classes (0 to 9), the model has 1000 outputs"


def test_colours_for_a_model_that_takes_grey(tmp_path: Path) -> None:
    spec = npz(tmp_path, 2, 3, 8, 8)
    with pytest.raises(UserError) as error:
        zoo.load_task(source(preprocess=Preprocess((8, 8), (0.5,), (0.5,), channels=1)), spec)
    assert str(error.value) == f"'{spec}' holds images of 3 channels, the model takes 1"


def test_arrays_become_a_task_of_the_models_size(tmp_path: Path) -> None:
    task = zoo.load_task(source(), npz(tmp_path, 10, 16, 16))
    assert task.example_inputs[0].shape == (2, 3, 8, 8)
    assert task.evaluate(lambda x: np.zeros((len(x), 10))) <= 1
    assert task.train is None


def test_limits_reach_the_data() -> None:
    seen = []
    task = zoo.load_task(source(), "fashion-mnist", limit_train=100, limit_eval=30)
    task.evaluate(lambda x: seen.append(len(x)) or np.zeros((len(x), 10)))
    assert sum(seen) == 30
    assert len(task.train()) == 1


def test_the_users_own_task_comes_before_the_default() -> None:
    own = zoo.load_task(source(), "fashion-mnist", 20, 20)
    assert zoo.load_task(replace(source(), task=own, data="fashion-mnist"), None) is own


def test_an_entry_without_weights_asks_for_them(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        zoo.load("resnet20")
    assert str(error.value) == "the zoo has no weights for resnet20; give a state dict with --weights FILE"
    model = resnet20().eval()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}}, tmp_path / "w.th")
    found = zoo.load("resnet20", str(tmp_path / "w.th"))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.model(x), model(x))
    assert zoo.rebuild(found.origin).state_dict().keys() == model.state_dict().keys()


def test_weights_for_a_thousand_classes_bring_imagenets_preprocessing(tmp_path: Path) -> None:
    save_file(resnet18(1000).state_dict(), tmp_path / "w.safetensors")
    found = zoo.load("resnet18", str(tmp_path / "w.safetensors"))
    assert found.preprocess == Preprocess((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256)
    assert (found.data, found.defaults, found.origin["classes"]) == (None, {}, 1000)
    assert entries()["resnet18"]["preprocess"]["size"] == [48, 48]  # the entry itself is as it was


def test_a_model_that_was_an_object_cannot_be_rebuilt() -> None:
    with pytest.raises(UserError) as error:
        zoo.rebuild({"kind": "module", "type": "Net"})
    assert str(error.value) == (
        "the model was given as a Python object, so its architecture is not on disk; give it: load(DIR, model=...)"
    )
