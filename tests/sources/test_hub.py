"""`hf:FOLDER` on small models that `save_pretrained` writes: the real loading code, without a network."""

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import save_file
from sources.hub_models import NAMES, PROCESSOR, bert, distilbert, resnet, saved, vit
from torch import nn

from compress import zoo
from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.export import export_onnx, signature
from compress.outputs import first_tensor
from compress.recipe import Recipe
from compress.run import Options, run_recipe
from compress.sources import hub
from compress.store import load_model, save_model


def logits(model: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return first_tensor(model(*inputs))


def test_an_image_model_with_its_labels_and_preprocessing(tmp_path: Path) -> None:
    model = resnet(**NAMES)
    source = zoo.load(f"hf:{saved(tmp_path, model, PROCESSOR)}")
    x = torch.randn(2, 3, 40, 40)
    assert torch.equal(logits(source.model, x), logits(model, x))
    assert not source.model.training
    assert source.labels == ("cat", "dog", "eel")
    assert source.preprocess == Preprocess(
        (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256, interpolation="bicubic"
    )
    assert {key: value for key, value in source.origin.items() if key != "config"} == {
        "kind": "hub",
        "folder": str(tmp_path),
        "task": "image",
        "classes": 3,
    }


def test_half_precision_becomes_float32_and_placeholder_labels_are_none(tmp_path: Path) -> None:
    source = zoo.load(f"hf:{saved(tmp_path, resnet(num_labels=3).half())}")
    assert {p.dtype for p in source.model.parameters()} == {torch.float32}
    assert source.labels == ()
    assert source.preprocess is None


def test_recorded_origins_rebuild_the_architectures_in_a_clean_process(tmp_path: Path) -> None:
    """From JSON, after the folders are gone."""
    origins, expected = [], []
    for make in (resnet, vit, bert, distilbert):
        folder = saved(tmp_path / make.__name__, make(num_labels=3))
        source = zoo.load(f"hf:{folder}")
        origins.append(source.origin)
        expected.append({name: list(tensor.shape) for name, tensor in source.model.state_dict().items()})
        shutil.rmtree(folder)
    (tmp_path / "origins.json").write_text(json.dumps(origins))
    script = (
        "import json, sys; from compress import zoo; from pathlib import Path\n"
        "models = [zoo.rebuild(origin) for origin in json.loads(Path(sys.argv[1]).read_text())]\n"
        "print(json.dumps([{name: list(tensor.shape) for name, tensor in m.state_dict().items()} for m in models]))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "origins.json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected
    assert done.stderr == ""


def test_a_model_goes_through_the_store(tmp_path: Path) -> None:
    source = zoo.load(f"hf:{saved(tmp_path / 'model', vit(num_labels=3))}")
    changed = copy.deepcopy(source.model)
    changed.classifier.bias.data += 1
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run", changed, source.model, {"origin": source.origin})
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(logits(load_model(tmp_path / "run", zoo.rebuild(source.origin)), x), logits(changed, x))


@pytest.mark.parametrize(
    ("make", "inputs", "names"),
    [
        (resnet, (torch.randn(2, 3, 32, 32),), ("input",)),
        (vit, (torch.randn(2, 3, 32, 32),), ("input",)),
        (bert, (torch.randint(0, 8, (2, 6)), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]), torch.zeros(2, 6).long()), None),
        (distilbert, (torch.randint(0, 8, (2, 6)), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])), None),
    ],
    ids=["resnet", "vit", "bert", "distilbert"],
)
def test_models_export_and_answer_alike(tmp_path: Path, make, inputs: tuple[torch.Tensor, ...], names) -> None:
    model = zoo.load(f"hf:{saved(tmp_path, make(num_labels=3))}").model
    found = signature(model, inputs)
    assert found.inputs == (names or ("input_ids", "attention_mask", "token_type_ids")[: len(inputs)])
    assert found.outputs == ("logits",)
    export_onnx(model, inputs, tmp_path / "model.onnx", found)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {name: x.numpy() for name, x in zip(found.inputs, inputs, strict=True)}
    np.testing.assert_allclose(session.run(None, feeds)[0], logits(model, *inputs).numpy(), atol=1e-5)
    one = {name: x[:1] for name, x in feeds.items()}
    np.testing.assert_allclose(session.run(None, one)[0], logits(model, *(x[:1] for x in inputs)).numpy(), atol=1e-5)


def test_weights_of_a_file_replace_those_of_the_folder(tmp_path: Path) -> None:
    folder, other = saved(tmp_path, resnet(num_labels=3)), resnet(num_labels=3)
    (folder / "model.safetensors").unlink()
    save_file({name: tensor.contiguous() for name, tensor in other.state_dict().items()}, tmp_path / "other.safetensors")
    source = zoo.load(f"hf:{folder}", str(tmp_path / "other.safetensors"))
    x = torch.randn(2, 3, 40, 40)
    assert torch.equal(logits(source.model, x), logits(other, x))


def test_the_library_stays_quiet_and_its_bars_come_back(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    folder = saved(tmp_path, resnet(num_labels=3))
    transformers.utils.logging.enable_progress_bar()
    capfd.readouterr()
    zoo.load(f"hf:{folder}")
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_grey_models(tmp_path: Path) -> None:
    folder = saved(tmp_path, resnet(num_channels=1, num_labels=3), PROCESSOR)
    preprocess = hub.load(str(folder), None).preprocess
    assert (preprocess.channels, preprocess.mean, preprocess.std) == (1, (0.485,), (0.229,))


def test_without_data_a_run_prunes_and_measures_and_scores_nothing(tmp_path: Path) -> None:
    saved(tmp_path / "model", bert())
    notes: list[str] = []
    recipe = Recipe(model=f"hf:{tmp_path}/model", passes=(("prune_channels", {"round_to": 4}),))
    quick = {"min_runs": 2, "min_seconds": 0.0}
    run = run_recipe(recipe, Options(out=tmp_path / "out", on_note=notes.append, timing=quick))
    assert [stage["accuracy"] for stage in run.report["stages"]] == [None, None]
    assert run.report["stages"][1]["params"] < run.report["stages"][0]["params"]
    assert notes == ["no data were given: no accuracy is measured"]
    with pytest.raises(UserError, match=r"^this model has no default data set; give one with --data: "):
        run_recipe(dataclasses.replace(recipe, passes=(("int8", {}),)), Options(out=tmp_path / "other"))
