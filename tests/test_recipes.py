"""The recipes of the package: found by name, valid, run small."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import onnx
import pytest
import torch
import transformers
import yaml
from torch import nn

import compress
from compress import zoo
from compress.artifact import Artifact
from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.export import export_onnx
from compress.gauge import Gauge
from compress.measure import count_macs
from compress.measure.layers import LayerTable
from compress.models.cifar_resnet import CifarResNet
from compress.passes import find
from compress.pipeline import check, check_choice, transformed
from compress.recipe import read
from compress.recipe_schema import recipe_schema
from compress.recipes import FOLDER, file_of, heading
from compress.recipes import names as recipes
from compress.sources.source import Source
from compress.testing import tiny_task

SCHEMA = jsonschema.Draft202012Validator(recipe_schema())
QUICK = {"min_runs": 2, "min_seconds": 0.0}
ALL = ["cpu-int8", "half-the-latency", "paper-depgraph-resnet56", "tiny", "transformer-int8"]


def test_names() -> None:
    assert recipes() == ALL
    assert {path.suffix for path in FOLDER.iterdir() if path.is_file()} == {".yaml", ".py"}


@pytest.mark.parametrize("name", ALL)
def test_each_is_valid_and_says_what_it_is_for_and_needs(name: str) -> None:
    passes = read(name).make_passes()
    check(passes, tiny_task())
    check_choice(passes)
    assert len(heading(name, "Aim")) > 20
    trains = any("train" in pass_.needs for pass_ in passes)
    assert ("train" in heading(name, "Needs")) == trains
    assert ("calibrate" in heading(name, "Needs")) == (not trains)  # calibration takes its images from the training data
    SCHEMA.validate(yaml.safe_load(file_of(name).read_text()))


@pytest.mark.parametrize("name", ALL)
def test_what_is_commented_out_can_be_taken(name: str) -> None:
    """Lines such as `# max_drop: 0.5`, and `# - int8`."""
    lines = file_of(name).read_text().splitlines()
    starts = ("# max_drop:", "# time_budget:", "# exclude:", "# bits:", "# smooth:", "# - ")
    text = "\n".join(line.replace("# ", "", 1) if line.strip().startswith(starts) else line for line in lines)
    plain = yaml.safe_load(text)
    SCHEMA.validate(plain)
    for step in plain["passes"]:
        for kind, options in {step: {}}.items() if isinstance(step, str) else step.items():
            find(kind)(**(options or {}))


@pytest.fixture
def parameters_for_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the search takes four bytes and as long as it is large: no test depends on the machine's speed."""

    def write(model: nn.Module, inputs: object, path: Path, signature: object) -> None:
        path.write_bytes(bytes(4 * size(model)))

    monkeypatch.setattr("compress.gauge.export_onnx", write)
    monkeypatch.setattr(Gauge, "_time", lambda self, paths: [path.stat().st_size / 1e4 for path in paths])
    monkeypatch.setattr(LayerTable, "_measure", lambda self, shape: shape[1] * shape[2])


def bundled(model: nn.Module) -> compress.Task:
    """64 images of the bundled data to train on and 50 to score, at 8 x 8 pixels."""
    preprocess = Preprocess((8, 8), (0.3,) * 3, (0.3,) * 3)
    return zoo.load_task(Source(model, {"classes": 10}, preprocess, data="fashion-mnist"), None, 64, 50)


def after_each_pass(name: str, model: nn.Module) -> list[Artifact]:
    """What a recipe's passes make of a network with random weights; a run would also export and time each, which takes longer."""
    artifacts = [Artifact.start(model, bundled(model))]
    for pass_ in read(name).make_passes():
        artifacts.append(transformed(pass_, artifacts[-1], 0, torch.device("cpu")))
    return artifacts[1:]


def plain() -> nn.Module:
    layers = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_cpu_int8_runs() -> None:
    model = plain()
    run = compress.run(model, bundled(model), recipe="cpu-int8", seed=3, timing=QUICK)
    assert [stage["name"] for stage in run.report["stages"]] == ["baseline", "int8"]
    assert (run.report["model"], run.report["seed"]) == ("Sequential", 3)
    assert run.report["integer_coverage"]["conv"] == [2, 2]


def test_half_the_latency_runs(parameters_for_times: None) -> None:
    model = plain()
    pruned, settled, trained = after_each_pass("half-the-latency", model)
    assert 0.3 * size(model) < size(pruned.model) <= 0.5 * size(model)  # widths of 8, 16, 24 and 32 are not many
    assert len(trained.details["training"]) == 4
    assert size(settled.model) == size(trained.model) == size(pruned.model)


def test_tiny_runs(tmp_path: Path) -> None:
    last = after_each_pass("tiny", plain())[-1]
    export_onnx(last.model, last.task.example_inputs, tmp_path / "model.onnx", last.signature)
    tensors = onnx.load(tmp_path / "model.onnx").graph.initializer
    packed = [list(tensor.dims) for tensor in tensors if tensor.data_type == onnx.TensorProto.INT4]
    assert sorted(packed) == [[16, 3, 3, 3], [16, 16, 3, 3]]  # the linear layer is too small to gain by it


def test_paper_depgraph_runs() -> None:
    model = CifarResNet(8, 10).eval()
    pruned, _, taught = after_each_pass("paper-depgraph-resnet56", model)
    costs = [count_macs(each, pruned.task.example_inputs) for each in (model, pruned.model)]
    assert 0.45 * costs[0] < costs[1] <= 0.4762 * costs[0]
    assert len(taught.details["training"]) == 10
    assert "distilled from the original by kd 0.9, ce 0.1, hint 500" in " ".join(taught.notes)


def test_transformer_int8_runs(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=6
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=4, max_position_embeddings=6, num_labels=2, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    lines = [json.dumps({"text": "good good" if n % 2 else "bad", "label": n % 2}) for n in range(40)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    run = compress.run(
        f"hf:{tmp_path}/bert", recipe="transformer-int8", data=f"jsonl:{tmp_path}/data.jsonl", limit_eval=30, timing=QUICK
    )
    assert run.report["integer_coverage"]["embedding"] == [2, 2]
    assert run.report["integer_coverage"]["linear"] == [8, 8]  # and not the products of the attention


@pytest.fixture
def file_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to stand in, with a recipe in the file `tiny`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("passes: [int8_dynamic]")


def test_a_name_is_the_recipe_and_a_path_the_file(file_tiny: None) -> None:
    assert [name for name, _ in read("tiny").passes] == ["prune_channels", "reestimate_bn", "finetune", "qat"]
    assert read("./tiny").passes == read(Path("tiny")).passes == (("int8_dynamic", {}),)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("cpu-int", "'cpu-int' is neither a recipe nor a file. Did you mean 'cpu-int8'?"),
        ("zzz", f"'zzz' is neither a recipe nor a file. Known: {', '.join(ALL)}."),
        ("tiny.yaml", "the recipe tiny.yaml cannot be read: No such file or directory; the one of the package is 'tiny'"),
        ("sub/tiny", "the recipe sub/tiny cannot be read: No such file or directory"),
    ],
)
def test_what_is_not_there_is_told(given: str, told: str, file_tiny: None) -> None:
    with pytest.raises(UserError) as error:
        read(given)
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m, t: compress.run(m, t), "say what to do by passes or by a recipe, such as recipe='cpu-int8', and not by both"),
        (
            lambda m, t: compress.run(m, t, [], recipe="tiny"),
            "say what to do by passes or by a recipe, such as recipe='cpu-int8', and not by both",
        ),
        (lambda m, t: compress.run(m, recipe="tiny"), "a module comes with its data: compress.run(model, task, ...)"),
        (
            lambda m, t: compress.run("resnet18", t, recipe="tiny"),
            "a model by its name takes data by name and a recipe: compress.run('resnet18', data=..., recipe=...)",
        ),
        (
            lambda m, t: compress.run(recipe="tiny"),
            "no model was given; name one, for example resnet18 (compress zoo list shows more)",
        ),
        (
            lambda m, t: compress.run(recipe="paper-depgraph-resnet56"),
            "the zoo has no weights for resnet56; give a state dict with --weights FILE",
        ),
    ],
)
def test_a_run_in_python_that_cannot_be(call: Callable, told: str) -> None:
    with pytest.raises(UserError) as error:
        call(nn.Linear(2, 2), compress.Task((torch.zeros(2, 2),)))
    assert str(error.value) == told


def test_the_page_on_recipes_shows_one_and_lists_all(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "recipe.yaml").write_text(example)
    SCHEMA.validate(yaml.safe_load(example))
    assert [pass_.name for pass_ in read(tmp_path / "recipe.yaml").make_passes()] == [
        "prune_channels",
        "reestimate_bn",
        "distill",
        "int8",
    ]
    assert sorted(line.split("`")[1] for line in page.splitlines() if line.startswith("| `")) == ALL
