"""A layer as a matrix times its inputs gives what the layer gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compress.sparsity.layers import Layer, find_layers, unfolded

LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 3, 6)),
    "transposed linear": (Conv1D(4, 6), (5, 3, 6)),
    "conv2d": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 5)),
    "strided, dilated": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 1)), (2, 4, 9, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 7, 5)),
    "same": (nn.Conv2d(4, 6, 4, padding="same"), (2, 4, 7, 5)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 5)),
    "no batch": (nn.Conv2d(4, 6, 3), (4, 7, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "conv3d": (nn.Conv3d(4, 6, 3, stride=2), (2, 4, 5, 7, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("module", "shape"), LAYERS.values(), ids=LAYERS)
def test_the_matrix_times_the_columns_is_the_layer(module: nn.Module, shape: tuple[int, ...], monkeypatch) -> None:
    monkeypatch.setattr("compress.sparsity.layers.CHUNK", 1)  # each image is a piece of its own
    layer, x = Layer("layer", module), torch.randn(shape)
    matrix = layer.matrix().unflatten(0, (layer.groups, -1))  # (groups, outputs, columns)
    columns = torch.cat(list(layer.columns(x)), 1)  # (groups, samples, columns)
    found = (columns @ matrix.transpose(1, 2)).permute(1, 0, 2).flatten(1) + module.bias
    wanted = module(x)
    if not isinstance(module, nn.Linear | Conv1D):
        wanted = (wanted if wanted.ndim == module.weight.ndim else wanted[None]).movedim(1, -1)
    assert torch.allclose(found, wanted.flatten(0, -2), atol=1e-5)


def test_the_windows_are_those_of_torch_unfold() -> None:
    conv, x = nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=2), torch.randn(2, 4, 9, 8)
    windows = F.unfold(x, (3, 2), dilation=2, padding=1, stride=2)  # (batch, channels * positions, pixels)
    wanted = windows.unflatten(1, (4, 6)).permute(0, 3, 2, 1).reshape(1, -1, 24)
    assert torch.equal(unfolded(conv, x), wanted)


@pytest.mark.parametrize("module", [module for module, _ in LAYERS.values()], ids=LAYERS)
def test_a_matrix_is_written_back_where_it_came_from(module: nn.Module) -> None:
    layer, before = Layer("layer", module), module.weight.detach().clone()
    layer.write_(layer.matrix() * 2)
    assert torch.equal(module.weight, before * 2)


def test_columns_run_through_the_channels_of_one_kernel_position() -> None:
    conv = nn.Conv2d(3, 1, 2)
    conv.weight.data = torch.arange(12.0).view(1, 3, 2, 2)
    assert Layer("conv", conv).matrix().tolist() == [[0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]]
    assert Layer("conv", conv).inputs == 3
    assert Layer("gpt", Conv1D(4, 6)).inputs == 6


class Mixed(nn.Module):
    """Two layers of their own, two that share a weight, one that shares an embedding's, one whose weight is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 4, padding_idx=0)
        self.conv = nn.Conv1d(4, 4, 1)
        self.norm = nn.LayerNorm(4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 8)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.computed(self.second(self.first(self.norm(self.words(x))))))


def test_what_can_be_sparse_and_why_the_rest_cannot() -> None:
    layers, left_out = find_layers(Mixed())
    assert [layer.name for layer in layers] == ["conv", "first"]
    assert left_out == {"computed": "its weight is computed, not stored", "head": "its weight is an embedding's, too"}
