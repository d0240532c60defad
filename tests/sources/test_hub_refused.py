"""Folders that are no model, are spoilt, or bring code: what is told, and what is never done."""

from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file
from sources.hub_models import PROCESSOR, change_config, resnet, saved

from compress import zoo
from compress.errors import UserError


def model_without(folder: Path, *names: str) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in state.items() if name not in names}, folder / "model.safetensors", {"format": "pt"}
    )


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


VERSION = transformers.__version__


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            "{f} has no config.json; a folder that transformers' save_pretrained wrote is needed",
        ),
        (
            lambda f: (f / "config.json").write_text("{oops"),
            "{f}/config.json is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (lambda f: (f / "config.json").write_text("[]"), "{f}/config.json holds a list, not the settings of a model"),
        (
            lambda f: change_config(f, model_type="nonesuch"),
            "{f} has the model type 'nonesuch', which transformers {v} does not know",
        ),
        (
            lambda f: change_config(f, model_type="nonesuch", auto_map={"AutoConfig": "code.Config"}),
            "{f} brings its own code (auto_map in config.json), which is never run; transformers {v} itself knows no model type "
            "'nonesuch'",
        ),
        (
            lambda f: change_config(f, model_type=None, architecture="resnet18"),
            "{f} is a model of timm; load it as timm:resnet18",
        ),
        (
            lambda f: change_config(f, architectures=["ResNetModel"]),
            "{f} is a ResNetModel; one that ends in ForImageClassification or ForSequenceClassification is needed "
            "(architectures in config.json)",
        ),
        (
            lambda f: (f / "model.safetensors").unlink(),
            "{f} has no model.safetensors; save it again with save_pretrained, or give a state dict with --weights FILE",
        ),
        (
            pickled_only,
            "{f} has no model.safetensors; its pytorch_model.bin is a pickle, and pickles are never loaded; save it again with "
            "save_pretrained, or give a state dict with --weights FILE",
        ),
        (
            lambda f: model_without(f, "classifier.1.weight", "classifier.1.bias"),
            "the weights of {f} do not fit ResNetForImageClassification: 'classifier.1.bias' is missing (2 are)",
        ),
        (
            lambda f: (f / "preprocessor_config.json").write_text("?"),
            "{f}/preprocessor_config.json is not valid JSON: Expecting value: line 1 column 1 (char 0)",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(tmp_path: Path, spoil, message: str) -> None:
    folder = saved(tmp_path, resnet(num_labels=3), PROCESSOR)
    spoil(folder)
    with pytest.raises(UserError) as error:
        zoo.load(f"hf:{folder}")
    assert str(error.value) == message.format(f=folder, v=VERSION)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:500]),
        lambda f: change_config(f, hidden_sizes=[8, 24]),
    ],
    ids=["torn", "other shapes"],
)
def test_weights_that_cannot_be_loaded_give_one_line(tmp_path: Path, spoil, capfd: pytest.CaptureFixture) -> None:
    folder = saved(tmp_path, resnet(num_labels=3))
    spoil(folder)
    with pytest.raises(UserError) as error:
        zoo.load(f"hf:{folder}")
    assert str(error.value).startswith(f"the weights of {folder} cannot be loaded: ")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = saved(tmp_path, resnet(num_labels=3))
    (folder / "code.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'proof')!r}).touch()\n")
    change_config(folder, auto_map={"AutoModelForImageClassification": "code.Net", "AutoConfig": "code.Config"})
    assert isinstance(zoo.load(f"hf:{folder}").model, transformers.ResNetForImageClassification)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:", "hf: needs a model: hf:OWNER/NAME on the Hugging Face hub, or hf:FOLDER"),
        ("hf:/nowhere/at all", "no such folder: /nowhere/at all"),
        ("hf:./nowhere", "no such folder: ./nowhere"),
        ("hf:a b/c", "'a b/c' is neither a folder here nor a name on the Hugging Face hub, which has the form OWNER/NAME"),
    ],
)
def test_names_that_are_neither_folder_nor_repository(spec: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        zoo.load(spec)
    assert str(error.value) == message
