"""What was saved comes back to the last bit, also in a process that knows nothing but the folder; and bad folders are told."""

import copy
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compress.artifact import Artifact
from compress.errors import CompressError, UserError
from compress.export import IMAGE_AXES, Signature
from compress.low_rank.factorize import factorized, matrix_of, spectrum
from compress.models.cifar_resnet import CifarResNet, resnet20
from compress.passes.int8 import Int8
from compress.pruning.channels import prune_channels_
from compress.store import MANIFEST, WEIGHTS, load_model, read_manifest, save_model, shared_tensors, structure_of
from compress.task import Task

PLAIN = {"origin": {"kind": "module"}}


def pruned(original: nn.Module, images: Tensor) -> nn.Module:
    model = copy.deepcopy(original)
    assert prune_channels_(model, (images,), ratio=0.5)
    return model


def quantized(model: nn.Module, x: Tensor, original: nn.Module | None = None, **options: Any) -> nn.Module:
    """`model` as int8, with all axes free; `original` is what it was before pruning."""
    task = Task((x,), calibration=lambda: [(x,)])
    free = Signature(("input",), ("logits",), (IMAGE_AXES if x.ndim == 4 else {0: "batch"},))
    return Int8(keep_slow=True, **options).apply(Artifact(copy.deepcopy(model), task, original or model, free, model))


def outputs(model: nn.Module, *inputs: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(*inputs).numpy()


IN_A_CLEAN_PROCESS = """
import sys, numpy, torch, compress
for folder in sys.argv[1:]:
    model = compress.load(folder)
    assert not model.training
    with torch.no_grad():
        numpy.save(folder + "/found.npy", model(torch.from_numpy(numpy.load(folder + "/images.npy"))).numpy())
"""


def test_pruned_and_quantized_models_of_the_zoo_come_back_in_a_clean_process(tmp_path: Path) -> None:
    original, images = resnet20(10).eval(), torch.randn(2, 3, 16, 16)
    smaller = pruned(original, images)
    expected = {}
    for name, model in {"pruned": smaller, "both": quantized(smaller, images, original)}.items():
        folder = tmp_path / name
        folder.mkdir()
        save_model(folder, model, original, {"origin": {"kind": "zoo", "name": "resnet20", "classes": 10}})
        np.save(folder / "images.npy", images.numpy())
        expected[str(folder)] = outputs(model, images)
    subprocess.run([sys.executable, "-c", IN_A_CLEAN_PROCESS, *expected], check=True, cwd=Path(__file__).parent.parent)
    for folder, wanted in expected.items():
        assert np.array_equal(np.load(f"{folder}/found.npy"), wanted), folder


def test_a_pruned_and_quantized_module_comes_back(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    untouched = copy.deepcopy(residual_net)
    smaller = pruned(residual_net, images)
    both = quantized(smaller, images, residual_net, exclude=("conv2",))
    save_model(tmp_path, both, residual_net, PLAIN)
    loaded = load_model(tmp_path, untouched)
    assert np.array_equal(outputs(loaded, images), outputs(both, images))
    assert [name for name, _ in loaded.named_modules()] == [name for name, _ in both.named_modules()]
    assert loaded.meta["quantization"] == both.meta["quantization"]
    save_model(tmp_path, loaded, residual_net, PLAIN)  # what was loaded can be saved again
    again = load_model(tmp_path, copy.deepcopy(residual_net))
    assert np.array_equal(outputs(again, images), outputs(both, images))


class Views(nn.Module):
    """Reads the size of its input, which is a number in the captured graph unless the axis is free."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        return self.conv(x).view(batch, 4, height * width)


def test_free_axes_stay_free(images: Tensor, tmp_path: Path) -> None:
    model = Views().eval()
    save_model(tmp_path, quantized(model, images), model, PLAIN)
    assert outputs(load_model(tmp_path, Views()), torch.randn(3, 3, 12, 10)).shape == (3, 4, 120)


class Tied(nn.Module):
    """Two layers with one weight, a buffer that is the other one's transpose, and a frozen bias."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.first.bias.requires_grad_(False)
        self.register_buffer("turned", self.first.weight.detach().t())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()) @ self.turned


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model, x = Tied(), torch.randn(4, 6)
    assert shared_tensors(model) == {"second.weight": "first.weight"}
    save_model(tmp_path, model, model, PLAIN)
    assert set(load_file(tmp_path / WEIGHTS)) == {"first.weight", "first.bias", "second.bias", "turned"}
    loaded = load_model(tmp_path, Tied())
    assert np.array_equal(outputs(loaded, x), outputs(model, x))
    assert loaded.second.weight is loaded.first.weight


def test_tied_weights_of_another_shape_stay_tied_and_frozen_ones_frozen(tmp_path: Path) -> None:
    model, x = Tied(4), torch.randn(4, 4)
    save_model(tmp_path, model, Tied(), PLAIN)
    loaded = load_model(tmp_path, Tied())
    assert np.array_equal(outputs(loaded, x), outputs(model, x))
    assert loaded.second.weight is loaded.first.weight
    assert {name: p.requires_grad for name, p in loaded.named_parameters()} == {
        "first.weight": True,
        "first.bias": False,
        "second.bias": True,
    }


def test_tied_weights_can_be_quantized_and_saved(tmp_path: Path) -> None:
    model, x = Tied().eval(), torch.randn(4, 6)
    small = quantized(model, x)
    save_model(tmp_path, small, model, PLAIN)
    assert np.array_equal(outputs(load_model(tmp_path, copy.deepcopy(model)), x), outputs(small, x))


def test_no_file_holds_a_pickle(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    save_model(tmp_path, quantized(residual_net, images), residual_net, PLAIN)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, WEIGHTS]
    json.loads((tmp_path / MANIFEST).read_text())
    content = (tmp_path / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    ends = sorted(tensor["data_offsets"] for name, tensor in header.items() if name != "__metadata__")
    assert ends[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(ends))
    assert 8 + length + ends[-1][1] == len(content), "every byte belongs to the header or to a tensor"


def test_the_structure_is_what_differs(images: Tensor) -> None:
    original = CifarResNet(8, 10).eval()
    assert structure_of(copy.deepcopy(original), original) == {}
    # torch-pruning narrows the two convolutions of a block on either side of the channels that it cuts.
    assert structure_of(pruned(original, images), original) == {
        "layer1.0.conv1": {"out_channels": 8},
        "layer1.0.bn1": {"num_features": 8},
        "layer1.0.conv2": {"in_channels": 8},
        "layer2.0.conv1": {"out_channels": 16},
        "layer2.0.bn1": {"num_features": 16},
        "layer2.0.conv2": {"in_channels": 16},
        "layer3.0.conv1": {"out_channels": 32},
        "layer3.0.bn1": {"num_features": 32},
        "layer3.0.conv2": {"in_channels": 32},
    }


def low_rank(original: nn.Module) -> nn.Module:
    """The model with a convolution and the head factorised."""
    model = copy.deepcopy(original)
    for path, rank in {"conv2": 4, "head": 1}.items():
        layer = model.get_submodule(path)
        model.set_submodule(path, factorized(layer, spectrum(matrix_of(layer)), rank))
    return model


def test_the_structure_names_the_class_of_a_factorised_layer(residual_net: nn.Module) -> None:
    assert structure_of(low_rank(residual_net), residual_net) == {
        "conv2": {"class": "LowRankConv2d"},
        "conv2.reduce": {"out_channels": 4},
        "conv2.expand": {"in_channels": 4},
        "head": {"class": "LowRankLinear"},  # of rank 1, as the store makes it
    }


def test_factorised_pruned_and_quantized_models_come_back(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    thin = low_rank(residual_net)
    both = pruned(thin, images)
    for model in (thin, both, quantized(thin, images, residual_net), quantized(both, images, residual_net)):
        state = torch.get_rng_state()
        save_model(tmp_path, model, residual_net, PLAIN)
        loaded = load_model(tmp_path, copy.deepcopy(residual_net))
        assert torch.equal(torch.get_rng_state(), state)
        assert np.array_equal(outputs(loaded, images), outputs(model, images))
        assert [name for name, _ in loaded.named_modules()] == [name for name, _ in model.named_modules()]


def test_a_factorised_model_can_be_the_original_of_another_run(residual_net: nn.Module, tmp_path: Path) -> None:
    thin = low_rank(residual_net)
    assert structure_of(copy.deepcopy(thin), thin) == {}


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (
            {"head": {"class": "Sequential"}},
            "DIR does not fit the architecture ResidualNet: 'head' is a Sequential, which this version does not know",
        ),
        (
            {"pool": {"class": "LowRankConv2d"}},
            "DIR does not fit the architecture ResidualNet: a MaxPool2d cannot become a LowRankConv2d",
        ),
    ],
)
def test_a_class_that_does_not_fit_is_told(structure: Any, message: str, saved: Path, residual_net: nn.Module) -> None:
    manifest_with(saved, structure=structure)
    assert told(saved, residual_net) == message


def replaced(model: nn.Module) -> None:
    model.pool = nn.AvgPool2d(2)


def added(model: nn.Module) -> None:
    model.extra = nn.Linear(2, 2)


def removed(model: nn.Module) -> None:
    del model.pool


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced, "the module 'pool' became a AvgPool2d where the original has MaxPool2d; it cannot be saved"),
        (added, "the module 'extra' became a Linear where the original has nothing; it cannot be saved"),
        (removed, "the module 'pool' of the original is gone; the model cannot be saved"),
    ],
)
def test_a_change_that_the_manifest_cannot_express_is_told(
    change: Any, message: str, residual_net: nn.Module, tmp_path: Path
) -> None:
    model = copy.deepcopy(residual_net)
    change(model)
    with pytest.raises(CompressError) as error:
        save_model(tmp_path, model, residual_net, PLAIN)
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []


# Bad folders


@pytest.fixture
def saved(residual_net: nn.Module, tmp_path: Path) -> Path:
    save_model(tmp_path, residual_net, residual_net, PLAIN)
    return tmp_path


def told(folder: Path, model: nn.Module) -> str:
    with pytest.raises(UserError) as error:
        load_model(folder, model)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "DIR")


def manifest_with(folder: Path, **changes: Any) -> None:
    values = {**read_manifest(folder), **changes}
    (folder / MANIFEST).write_text(json.dumps({key: value for key, value in values.items() if value != "absent"}))


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    assert told(tmp_path, nn.Module()) == "DIR holds no compressed model: manifest.json is missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"version": 1, "str',
            "DIR/manifest.json is not valid JSON: Unterminated string starting at: line 1 column 16 (char 15)",
        ),
        ("[]", "DIR/manifest.json is not a manifest of this package: it has no version"),
        ('{"version": "1"}', "DIR/manifest.json is not a manifest of this package: it has no version"),
        ('{"version": 1, "structure": {}}', "DIR/manifest.json is not a manifest of this package: it has no quantization"),
        (
            '{"version": 1, "structure": {}, "quantization": {}, "aliases": {}}',
            "DIR/manifest.json is of a network that an older version of this package quantized; quantize it again",
        ),
        ('{"version": 3}', "DIR/manifest.json has version 3, this package reads up to 2; upgrade compress-toolkit"),
    ],
)
def test_a_bad_manifest_is_told(text: str, message: str, saved: Path, residual_net: nn.Module) -> None:
    (saved / MANIFEST).write_text(text)
    assert told(saved, residual_net) == message


def test_a_manifest_that_is_no_text_is_told(saved: Path, residual_net: nn.Module) -> None:
    (saved / MANIFEST).write_bytes(b"\xff\xfe\x00")
    assert told(saved, residual_net).startswith("DIR/manifest.json is not valid JSON: 'utf-8' codec can't decode byte 0xff")


def test_torn_weights_are_told(saved: Path, residual_net: nn.Module) -> None:
    content = (saved / WEIGHTS).read_bytes()
    for kept in (0, 5, 1000, len(content) - 1):
        (saved / WEIGHTS).write_bytes(content[:kept])
        assert told(saved, residual_net).startswith("DIR/model.safetensors cannot be read as safetensors: ")
    (saved / WEIGHTS).unlink()
    assert told(saved, residual_net) == (
        "DIR/model.safetensors cannot be read as safetensors: No such file or directory: DIR/model.safetensors"
    )


def test_another_architecture_is_told(saved: Path, residual_net: nn.Module) -> None:
    assert (
        told(saved, CifarResNet(8, 10))
        == "DIR does not fit the architecture CifarResNet: the weights have no 'layer1.0.conv1.weight'"
    )
    del residual_net.head
    assert told(saved, residual_net) == "DIR does not fit the architecture ResidualNet: it has no 'head.bias'"


def test_weights_that_lack_a_tensor_are_told(saved: Path, residual_net: nn.Module) -> None:
    state = load_file(saved / WEIGHTS)
    del state["head.bias"]
    save_file(state, saved / WEIGHTS)
    assert told(saved, residual_net) == "DIR does not fit the architecture ResidualNet: the weights have no 'head.bias'"


def test_a_structure_with_an_unknown_module_is_told(saved: Path, residual_net: nn.Module) -> None:
    manifest_with(saved, structure={"layer9.conv": {"out_channels": 3}})
    assert told(saved, residual_net) == "DIR does not fit the architecture ResidualNet: it has no module 'layer9.conv'"


def test_an_alias_of_nothing_is_told(saved: Path, residual_net: nn.Module) -> None:
    state = load_file(saved / WEIGHTS)
    del state["head.bias"]
    save_file(state, saved / WEIGHTS)
    manifest_with(saved, aliases={"head.bias": "tail.bias"})
    assert told(saved, residual_net) == "DIR does not fit the architecture ResidualNet: the weights have no 'head.bias'"


def test_a_quantized_model_of_another_architecture_is_told(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    save_model(tmp_path, quantized(residual_net, images), residual_net, PLAIN)
    assert told(tmp_path, CifarResNet(8, 10)) == (
        "DIR does not fit the architecture CifarResNet: the weights have no 'layer1.0.conv1.weight'"
    )
