"""A cut network equals the original whose readers no longer look at the channels that went."""

import copy

import pytest
import torch
import torch.nn.functional as F
from pruning.networks import Plain, marked, removed
from torch import Tensor, nn

from compress.models.cifar_resnet import CifarResNet
from compress.pruning.channels import prune_channels_


@torch.no_grad()
def without(original: nn.Module, cut: nn.Module, readers: dict[str, list[str]]) -> nn.Module:
    """The original, at full width, in which the layers of `readers` multiply what was removed by zero.

    `readers`: name of a bias that marks a group's channels -> the layers that read these channels; `layer+3` starts
    reading them at its fourth input (of a flattened image all pixels of a channel are read otherwise).
    """
    model = copy.deepcopy(original)
    for mark, names in readers.items():
        gone = removed(original, cut, mark)
        assert gone, f"nothing of {mark} was removed"
        for name in names:
            name, _, start = name.partition("+")
            weight = model.get_parameter(f"{name}.weight")
            width = len(original.get_parameter(f"{mark}.bias"))
            pixels = 1 if start or weight.ndim == 4 else weight.shape[1] // width  # of a flattened image
            for channel in gone:
                first = int(start or 0) + channel * pixels
                weight[:, first : first + pixels] = 0
    return model


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.depthwise = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16)
        self.norm, self.b = nn.BatchNorm2d(16), nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.depthwise(F.relu(self.a(x)))))
        return self.head(F.relu(self.b(x)).mean((2, 3)))


class Grouped(nn.Module):
    """Two groups: the first half of the channels never meets the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.grouped = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=2)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.grouped(F.relu(self.a(x)))).mean((2, 3)))


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 24, 3)
        self.head = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1).mean((2, 3)))


class TwoOutputs(nn.Module):
    """Features and logits; the features feed the logits, and are an output themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.features = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.hidden, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.features(F.relu(self.a(x))))
        return features, self.head(F.relu(self.hidden(features.mean((2, 3)))))


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    found = model(x)
    return [found] if isinstance(found, Tensor) else list(found)


@pytest.mark.parametrize(
    ("model", "widths", "readers"),
    [
        (Plain, {"a": (16, 8), "b": (24, 8), "hidden": (16, 8)}, {"a": ["b"], "b": ["hidden"], "hidden": ["head"]}),
        (
            Depthwise,
            {"a": (16, 8), "depthwise": (16, 8), "b": (32, 16)},
            # Channels of the norm, which stands behind; the same ones of the layers in front of it.
            {"norm": ["b"], "b": ["head"]},
        ),
        (Concatenated, {"a": (16, 8), "b": (24, 8)}, {"a": ["head+0"], "b": ["head+16"]}),
        (TwoOutputs, {"a": (16, 8), "hidden": (16, 8)}, {"a": ["features"], "hidden": ["head"]}),
        (
            lambda: CifarResNet(8, 10),
            {"layer1.0.conv1": (16, 8), "layer2.0.conv1": (32, 16), "layer3.0.conv1": (64, 32)},
            {f"layer{n}.0.bn1": [f"layer{n}.0.conv2"] for n in (1, 2, 3)},
        ),
    ],
    ids=["plain", "depthwise", "concatenated", "two outputs", "shortcuts that pad channels"],
)
def test_the_cut_network_is_the_original_without_these_channels(
    model: type[nn.Module], widths: dict[str, tuple[int, int]], readers: dict[str, list[str]]
) -> None:
    original, x = marked(model()), torch.randn(3, 3, 8, 8)
    cut = copy.deepcopy(original)
    assert prune_channels_(cut, (x,), ratio=0.5) == widths
    for found, expected in zip(outputs(cut, x), outputs(without(original, cut, readers), x), strict=True):
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_residual_group_is_cut_as_one(residual_net: nn.Module) -> None:
    original, x = marked(residual_net), torch.randn(3, 3, 8, 8)
    cut = copy.deepcopy(original)
    changed = prune_channels_(cut, (x,), ratio=0.5)
    assert changed == {"stem": (16, 8), "conv1": (32, 16), "conv2": (32, 16), "shortcut.0": (32, 16)}
    assert removed(original, cut, "bn2") == removed(original, cut, "shortcut.1")
    readers = {"stem_bn": ["conv1", "shortcut.0"], "bn1": ["conv2"], "bn2": ["head"]}
    assert torch.allclose(cut(x), without(original, cut, readers)(x), atol=1e-4)


def test_a_grouped_convolution_loses_as_many_channels_in_each_group() -> None:
    original, x = marked(Grouped()), torch.randn(3, 3, 8, 8)
    cut = copy.deepcopy(original)
    assert prune_channels_(cut, (x,), ratio=0.5) == {"a": (32, 16), "grouped": (32, 16)}
    assert cut.grouped.groups == 2
    gone = removed(original, cut, "grouped")
    assert sum(channel < 16 for channel in gone) == 8
    # What feeds the first group is among the first half, so no input channel changes its group.
    unread = removed(original, cut, "a")
    assert sum(channel < 16 for channel in unread) == 8
    full = without(original, cut, {"grouped": ["head"]})
    with torch.no_grad():
        for channel in unread:  # each group has the input channels 0 to 15
            full.grouped.weight[16 * (channel // 16) : 16 * (channel // 16 + 1), channel % 16] = 0
    assert torch.allclose(cut(x), full(x), atol=1e-4)


class GroupedQueries(nn.Module):
    """Eight heads of queries, each two of which look at one of four heads of keys."""

    def __init__(self, repeat: bool) -> None:
        super().__init__()
        self.repeat, self.num_heads, self.num_kv_heads = repeat, 8, 4
        self.embed, self.q, self.k, self.v = nn.Linear(12, 64), nn.Linear(64, 64), nn.Linear(64, 32), nn.Linear(64, 32)
        self.o, self.head = nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, self.num_heads, 8).transpose(1, 2)
        k, v = (layer(x).view(batch, tokens, self.num_kv_heads, 8).transpose(1, 2) for layer in (self.k, self.v))
        if self.repeat:
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=not self.repeat)
        return self.head((x + self.o(y.transpose(1, 2).reshape(batch, tokens, -1))).mean(1))


@pytest.mark.parametrize("repeat", [False, True])
def test_a_head_of_keys_goes_with_its_heads_of_queries(repeat: bool) -> None:
    model = GroupedQueries(repeat).eval()
    original, x = copy.deepcopy(model), torch.randn(3, 6, 12)
    changed = prune_channels_(model, (x,), ratio=0.5, round_to=1, exclude=("embed",))
    assert changed == {"q": (64, 32), "k": (32, 16), "v": (32, 16)}
    assert (model.num_heads, model.num_kv_heads) == (4, 2)
    gone = removed(original, model, "q")
    assert [head for head in range(8) if 8 * head in gone] in (
        [0, 1, 2, 3],
        [0, 1, 4, 5],
        [0, 1, 6, 7],
        [2, 3, 4, 5],
        [2, 3, 6, 7],
        [4, 5, 6, 7],
    )
    full = copy.deepcopy(original)
    with torch.no_grad():
        full.o.weight[:, gone] = 0
    assert torch.allclose(model(x), full(x), atol=1e-6)
