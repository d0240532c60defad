"""`hf:FOLDER` on small models that `save_pretrained` writes: the real loading code, without a network."""

import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from compress import zoo
from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.export import export_onnx, signature
from compress.outputs import first_tensor, predictor
from compress.recipe import Recipe
from compress.run import Options, run_recipe
from compress.sources import hub
from compress.sources.hub_preprocess import preprocess_of, read_processor
from compress.sources.hub_tokenizer import input_order
from compress.store import load_model, save_model

PROCESSOR = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film")
NAMES = {"id2label": {0: "cat", 1: "dog", 2: "eel"}, "label2id": {"cat": 0, "dog": 1, "eel": 2}}
BERT = {"vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def resnet(**more: object) -> nn.Module:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **more)
    return transformers.ResNetForImageClassification(config).eval()


def vit(**more: object) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, **sizes, **more)).eval()


def bert(**more: object) -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**{**BERT, **more})).eval()


def distilbert(**more: object) -> nn.Module:
    config = transformers.DistilBertConfig(vocab_size=8, dim=16, n_layers=2, n_heads=2, hidden_dim=32, **more)
    return transformers.DistilBertForSequenceClassification(config).eval()


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=inputs, model_max_length=16, **names)


def saved(folder: Path, model: nn.Module, processor: dict | None = None) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def change_config(folder: Path, **values: object) -> None:
    """Set, or with None remove, settings in a folder's config.json."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


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


def test_a_text_model_reads_sentences(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", bert(num_labels=2, max_position_embeddings=12))
    tokenizer().save_pretrained(folder)
    source = zoo.load(f"hf:{folder}")
    assert source.origin["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    lines = [{"text": "a good film" if n % 2 else "bad", "label": n % 2} for n in range(100)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = zoo.load_task(source, f"jsonl:{tmp_path / 'data.jsonl'}")
    ids, mask, types = task.example_inputs
    assert [tuple(x.shape) for x in task.example_inputs] == [(2, 12)] * 3  # the model knows 12 positions
    by_hand = {"a good film": [4, 5, 7], "bad": [6]}
    for row, seen in zip(ids.tolist(), mask.tolist(), strict=True):
        words = [*by_hand["a good film" if row[0] == 4 else "bad"]]
        assert row == words + [0] * (12 - len(words))
        assert seen == [1] * len(words) + [0] * (12 - len(words))
    assert not types.any()
    assert 0 <= task.evaluate(predictor(source.model)) <= 1
    # `compress eval` has the recorded origin, but neither model nor tokenizer.
    recorded = zoo.load_task(dataclasses.replace(source, model=nn.Module(), tokenizer=None), f"jsonl:{tmp_path / 'data.jsonl'}")
    assert torch.equal(recorded.example_inputs[0], ids)


def test_inputs_behind_a_gap_are_left_out() -> None:
    """They are given by position, and XLNet's forward has `mems` between two outputs of the tokenizer."""

    class Gap(nn.Module):
        def forward(self, input_ids, attention_mask=None, mems=None, token_type_ids=None):
            return input_ids

    assert input_order(Gap(), tokenizer()) == ["input_ids", "attention_mask"]


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


def hub_answers(monkeypatch: pytest.MonkeyPatch, answer) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)


def test_without_a_network_one_line_says_what_and_what_to_do(tmp_path: Path) -> None:
    """In a process of its own, since the hub's library reads its settings once; the discard port refuses at once."""
    script = (
        "import time; from compress import zoo; from compress.errors import UserError\n"
        "begun = time.perf_counter()\n"
        "try: zoo.load('resnet18-imagenet')\n"
        "except UserError as error: print(error); print(time.perf_counter() - begun < 30)"
    )
    settings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "no_proxy": "*"}
    environment = {**os.environ, **settings}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == (
        "microsoft/resnet-18 could not be fetched from the Hugging Face hub (ConnectionRefusedError: [Errno 111] Connection "
        "refused); fetch it elsewhere and give the folder: hf:FOLDER with config.json, model.safetensors and its other .json "
        "files\nTrue\n"
    )
    assert done.stderr == ""


def test_a_repository_is_recorded_with_its_commit_and_fetched_without_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = saved(tmp_path / commit, resnet(num_labels=3), PROCESSOR)
    asked: list[dict] = []
    hub_answers(monkeypatch, lambda repository, **options: asked.append({"of": repository, **options}) or str(folder))
    source = zoo.load("resnet18-imagenet")
    assert (source.origin["id"], source.origin["revision"]) == ("microsoft/resnet-18", commit)
    assert "folder" not in source.origin
    assert source.data is None
    assert asked[0]["of"] == "microsoft/resnet-18"
    assert "model.safetensors" in asked[0]["allow_patterns"]
    assert not [pattern for pattern in asked[0]["allow_patterns"] if pattern.endswith((".bin", ".py"))]
    save_file({n: t.contiguous() for n, t in resnet(num_labels=3).state_dict().items()}, tmp_path / "w.safetensors")
    zoo.load("resnet18-imagenet", str(tmp_path / "w.safetensors"))
    assert not [pattern for pattern in asked[1]["allow_patterns"] if "safetensors" in pattern]


def test_repositories_that_are_closed_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def refuse(kind: type):
        def answer(*_: object, **__: object) -> str:
            raise kind.__new__(kind)

        return answer

    hub_answers(monkeypatch, refuse(RepositoryNotFoundError))
    with pytest.raises(UserError) as error:
        zoo.load("hf:some/model")
    assert str(error.value) == "there is no folder 'some/model' here, and the Hugging Face hub has no public model of that name"
    hub_answers(monkeypatch, refuse(GatedRepoError))
    with pytest.raises(UserError) as error:
        zoo.load("hf:some/model")
    assert str(error.value) == (
        "some/model asks for a licence to be accepted on huggingface.co; accept it there and log in with: hf auth login"
    )


def test_a_download_reports_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """As the hub's library does it: one bar that is updated from another thread."""
    from concurrent.futures import ThreadPoolExecutor

    from compress.progress import watch
    from compress.sources.hub_files import fetch

    def download(repository: str, *, tqdm_class: type, **_: object) -> str:
        bar = tqdm_class(desc="Downloading", total=40_000_000, unit="B", unit_scale=True, name="hub")
        with ThreadPoolExecutor(1) as pool:
            for _ in range(4):
                pool.submit(bar.update, 10_000_000).result()
        bar.close()
        return str(tmp_path)

    hub_answers(monkeypatch, download)
    seen = []
    with watch(lambda *what: seen.append(what)):
        assert fetch("some/model", ["*"], "") == tmp_path
    assert seen == [("download some/model", done, 40, "MB") for done in (10, 20, 30, 40)]
    assert capfd.readouterr() == ("", "")


def processors() -> list[str]:
    names = "ViT ConvNext Levit PoolFormer EfficientNet MobileNetV1 Bit CLIP Beit Segformer"
    return [f"{name}ImageProcessorPil" for name in names.split()]


@pytest.mark.parametrize("name", processors())
def test_preprocessing_is_what_the_models_own_processor_does(tmp_path: Path, name: str) -> None:
    """Pixel by pixel, on an image that is not square."""
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is missing; image processors are not compared")
    from compress.data.image_files import decode

    processor = getattr(transformers, name)(**({"size": {"shortest_edge": 224}} if name.startswith("ConvNext") else {}))
    processor.save_pretrained(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    image = pillow.fromarray(noise).resize((410, 300))
    image.save(tmp_path / "image.png")
    expected = torch.as_tensor(np.asarray(processor(image, return_tensors="np")["pixel_values"][0]))
    preprocess = preprocess_of(read_processor(tmp_path), 3)
    got = preprocess.normalized(decode(tmp_path / "image.png", preprocess)[None])[0]
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": 224}, ((224, 224), None)),
        ({"size": 256, "do_center_crop": True, "crop_size": 224}, ((224, 224), 256)),
        ({"size": 384, "crop_pct": 0.875}, ((384, 384), None)),
        ({"size": [32, 40]}, ((32, 40), None)),
        ({"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}}, ((224, 224), 256)),
    ],
)
def test_sizes_as_older_files_write_them(values: dict, expected: tuple) -> None:
    found = preprocess_of({**values, "do_normalize": False}, 3)
    assert (found.size, found.resize) == expected
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("values", "byte", "expected"),
    [
        ({"image_mean": 0.5, "image_std": 0.25}, 51, (0.2 - 0.5) / 0.25),
        ({"image_mean": [10, 20, 30], "image_std": [5, 5, 5], "do_rescale": False}, 51, (51 - 10) / 5),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5}, 51, (51 / 127.5 - 0.5) / 0.5),
        (
            {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 1 / 127.5, "rescale_offset": True},
            51,
            51 / 127.5 - 1,
        ),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "include_top": True}, 51, (0.2 - 0.5) / 0.5 / 0.5),
    ],
)
def test_scales_and_offsets(values: dict, byte: int, expected: float) -> None:
    preprocess = preprocess_of({"size": 2, **values}, 3)
    pixels = preprocess.normalized(torch.full((1, 3, 2, 2), byte, dtype=torch.uint8))
    assert float(pixels[0, 0, 0, 0]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "values",
    [{"size": 224, "do_flip_channel_order": True}, {"image_mean": 0.5, "image_std": 0.5}, {"size": 224, "do_normalize": True}],
    ids=["blue first", "no size", "unknown statistics"],
)
def test_what_cannot_be_said_is_nothing(values: dict) -> None:
    assert preprocess_of(values, 3) is None


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
