"""The networks of the zoo: sizes, torchvision's and the CIFAR weights' names, and weights that really load."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.measure import count_macs, count_parameters
from compress.models.cifar_resnet import CifarResNet, Shortcut, resnet20, resnet32, resnet56
from compress.models.resnet import resnet18
from compress.sources.weights import load_weights_, read_weights

WEIGHTS = Path(__file__).parents[3] / "shared" / "data"


def convolutions(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in model.modules())


def by_hand_resnet18(classes: int) -> int:
    """Parameters: stem, then for each stage two blocks; each convolution with a norm of two numbers per channel."""

    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs

    total = conv(3, 64, 7)
    for inputs, outputs in ((64, 64), (64, 128), (128, 256), (256, 512)):
        total += conv(inputs, outputs, 3) + 3 * conv(outputs, outputs, 3)
        total += conv(inputs, outputs, 1) if inputs != outputs else 0
    return total + 512 * classes + classes


@pytest.mark.parametrize(("classes", "millions"), [(10, 11.18), (1000, 11.69)])
def test_resnet18_has_the_parameters_of_the_paper(classes: int, millions: float) -> None:
    model = resnet18(classes)
    assert count_parameters(model) == by_hand_resnet18(classes)
    assert round(count_parameters(model) / 1e6, 2) == millions
    assert convolutions(model) == 20


def test_resnet18_computes_what_the_paper_says() -> None:
    assert round(count_macs(resnet18(1000), (torch.randn(1, 3, 224, 224),)) / 1e9, 2) == 1.81


def test_resnet18_has_torchvisions_names() -> None:
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{leaf}" for leaf in norms}
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            for part in (1, 2):
                names.add(f"layer{stage}.{block}.conv{part}.weight")
                names |= {f"layer{stage}.{block}.bn{part}.{leaf}" for leaf in norms}
        if stage > 1:
            names.add(f"layer{stage}.0.downsample.0.weight")
            names |= {f"layer{stage}.0.downsample.1.{leaf}" for leaf in norms}
    assert set(resnet18().state_dict()) == names


def test_resnet18_takes_images_of_any_size_from_32() -> None:
    model = resnet18(7).eval()
    for height, width in ((32, 32), (48, 33), (65, 40)):
        assert model(torch.randn(2, 3, height, width)).shape == (2, 7)


@pytest.mark.parametrize(("build", "depth", "millions"), [(resnet20, 20, 0.27), (resnet32, 32, 0.46), (resnet56, 56, 0.85)])
def test_cifar_resnets_have_the_depth_and_the_parameters_of_the_paper(
    build: type[nn.Module], depth: int, millions: float
) -> None:
    model = build()
    assert convolutions(model) + 1 == depth
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.0101)  # table 6 of the paper cuts, not rounds
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_cifar_resnet_of_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^depth must be 6n \+ 2, got 21$"):
        CifarResNet(21, 10)


def test_the_shortcut_takes_every_second_pixel_and_adds_empty_channels_on_both_sides() -> None:
    x = torch.randn(2, 4, 6, 6)
    out = Shortcut(4)(x)
    assert out.shape == (2, 8, 3, 3)
    for channel in range(8):
        expected = x[:, channel - 2, ::2, ::2] if 2 <= channel < 6 else torch.zeros(2, 3, 3)
        assert torch.equal(out[:, channel], expected)


@pytest.mark.parametrize(
    ("build", "file"),
    [(resnet20, "resnet20-12fca82f.th"), (resnet32, "resnet32-d509ac18.th"), (resnet56, "resnet56-4bfd9763.th")],
)
def test_the_published_cifar_weights_load(build: type[nn.Module], file: str) -> None:
    path = WEIGHTS / "cifar-resnets" / file
    if not path.is_file():
        pytest.skip(f"{path} is not there: the published weights are not part of the repository")
    model, state = build(), read_weights(path)
    load_weights_(model, state, path)  # raises on any name or shape that differs
    own = model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())
    assert {name.rpartition(".")[2] for name in set(own) - set(state)} <= {"num_batches_tracked"}


def test_the_bundled_weights_load() -> None:
    path = Path(__file__).parents[2] / "compress" / "models" / "resnet18-fashion-mnist.safetensors"
    model = resnet18(10)
    load_weights_(model, read_weights(path), path)
    assert model.eval()(torch.zeros(1, 3, 48, 48)).isfinite().all()
