"""A cut network equals the original whose readers no longer look at the channels that went; and what must not be cut is not."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compress
from compress.errors import PassError
from compress.models.cifar_resnet import CifarResNet
from compress.passes.prune_channels import PruneChannels
from compress.pruning.channels import prune_channels_
from compress.pruning.rules import register


def marked(model: nn.Module) -> nn.Module:
    """Every bias and every batch norm with numbers of its own: they tell, after the cut, which channels are left."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model.eval()


def removed(original: nn.Module, cut: nn.Module, mark: str) -> list[int]:
    """Channels whose entry in the bias `mark` of the original is not in that of the cut network."""
    left = set(cut.get_parameter(f"{mark}.bias").tolist())
    return [index for index, value in enumerate(original.get_parameter(f"{mark}.bias").tolist()) if value not in left]


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


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, stride=2)
        self.hidden, self.head = nn.Linear(24 * 9, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.head(F.gelu(self.hidden(x.flatten(1))))


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


@torch.no_grad()
def test_the_channels_of_the_smallest_norm_go() -> None:
    model, x = marked(Plain()), torch.randn(3, 3, 8, 8)
    small = [1, 2, 5, 7, 8, 11, 12, 15]
    model.a.weight[small] *= 0.01
    model.a.bias[small] *= 0.01
    model.b.weight[:, small] *= 0.01  # the norm is that of the group: the readers' weights belong to it
    cut = copy.deepcopy(model)
    prune_channels_(cut, (x,), ratio=0.5)
    assert removed(model, cut, "a") == small


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "left"),
    [
        (32, 0.5, 8, 16),
        (32, 0.3, 8, 24),  # 22.4 is nearer to 24 than to 16
        (32, 0.3, 1, 22),
        (32, 0.3, 2, 22),
        (32, 0.1, 8, 32),  # 28.8 is nearer to 32
        (24, 0.5, 8, 8),  # 12 is half way
        (20, 0.25, 4, 16),  # 15 is nearer to 16
        (20, 0.1, 16, 16),
        (16, 0.75, 8, 8),  # 4, but at least 8
        (64, 0.99, 8, 8),
        (12, 0.5, 8, 8),
        (10, 0.2, 8, 8),
        (8, 0.5, 8, 8),  # no more channels than round_to
        (6, 0.9, 8, 6),
        (6, 0.9, 1, 1),
    ],
)
def test_ratio_and_rounding(width: int, ratio: float, round_to: int, left: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 4, 1))
    changed = prune_channels_(model, (torch.randn(1, 3, 4, 4),), ratio=ratio, round_to=round_to)
    assert model[0].out_channels == model[2].in_channels == left
    assert changed == ({} if left == width else {"0": (width, left)})


@pytest.mark.parametrize("pattern", ["conv1", "conv*", "shortcut.*"])
def test_excluded_layers_keep_their_channels(pattern: str, residual_net: nn.Module, images: Tensor) -> None:
    before = copy.deepcopy(residual_net)
    changed = prune_channels_(residual_net, (images,), ratio=0.5, exclude=(pattern,))
    kept = {"conv1": {"conv1"}, "conv*": {"conv1", "conv2", "shortcut.0"}, "shortcut.*": {"conv2", "shortcut.0"}}[pattern]
    assert set(changed) == {"stem", "conv1", "conv2", "shortcut.0"} - kept  # and what is added to an excluded layer stays
    for name in kept:
        assert residual_net.get_parameter(f"{name}.weight").shape[0] == before.get_parameter(f"{name}.weight").shape[0]


def test_an_output_that_is_a_convolution_is_never_cut() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    assert prune_channels_(model, (torch.randn(2, 3, 8, 8),), ratio=0.5) == {"0": (16, 8)}
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 16, 4, 4)


class Dictionary(Plain):
    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        x = F.relu(self.b(F.relu(self.a(x))))
        hidden = F.relu(self.hidden(x.flatten(1)))
        return {"logits": self.head(hidden), "loss": None, "hidden": hidden, "classes": self.head(hidden).argmax(1)}


def test_outputs_in_a_dictionary_are_protected_and_integers_ignored() -> None:
    changed = prune_channels_(Dictionary().eval(), (torch.randn(2, 3, 8, 8),), ratio=0.5)
    assert changed == {"a": (16, 8), "b": (24, 8)}


def test_frozen_parameters_stay_frozen_and_others_free(residual_net: nn.Module, images: Tensor) -> None:
    frozen = {"stem.weight", "bn2.bias", "head.weight"}
    for name, parameter in residual_net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    prune_channels_(residual_net, (images,), ratio=0.5)
    assert {name for name, parameter in residual_net.named_parameters() if not parameter.requires_grad} == frozen
    assert residual_net.head.in_features == 16


class Scaled(nn.Module):
    """Multiplies channels by numbers that belong to no layer: a parameter, a buffer, or a tensor that cannot be cut."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)
        scale = torch.rand(16, 1, 1)
        if kind == "buffer":
            self.register_buffer("scale", scale)
        else:
            self.scale = nn.Parameter(scale) if kind == "parameter" else scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv(x) * self.scale).mean((2, 3)))


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_numbers_without_a_layer_are_cut_too_and_nothing_is_warned_about(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, x = Scaled(kind).eval(), torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prune_channels_(model, (x,), ratio=0.5) == {"conv": (16, 8)}
    assert model.scale.shape == (8, 1, 1)
    assert model(x).shape == (2, 5)
    assert capfd.readouterr() == ("", "")


class Reshapes(nn.Module):
    """Has its width written into its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(-1, 16 * 64))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: Scaled("tensor"), "conv: runs along values of a fixed number"),
        (
            Reshapes,
            "conv: cutting it breaks the forward at 'head' (mat1 and mat2 shapes cannot be multiplied (1x1024 and 512x5))",
        ),
    ],
    ids=["a tensor of fixed size", "a width in the code"],
)
def test_what_cannot_be_cut_is_protected_and_the_reason_told(model: type[nn.Module], reason: str) -> None:
    original, x = model().eval(), torch.randn(2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    with pytest.raises(PassError) as error:
        compress.apply(PruneChannels(), original, compress.Task((x,)))
    start = "prune_channels could remove nothing at ratio 0.5; the model from before stands; protected are"
    assert str(error.value) in (
        f"{start} {reason}; head: an output of the model",
        f"{start} head: an output of the model; {reason}",
    )
    after = original.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class Counted(nn.Module):
    """Breaks where the widths of two layers differ, which the tracing cannot see; and has others that may be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = (nn.Conv2d(3, 16, 1) for _ in range(3))
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, second, other = self.first(x), self.second(x), self.other(x)
        if first.shape[1] != second.shape[1]:
            raise RuntimeError("first and second must be of one width")
        return self.head(torch.cat([first, second, other], 1).mean((2, 3)))


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        # The two are as narrow as each other: nothing is wrong.
        ({}, {"first": 8, "second": 8, "other": 8}),
        # Either of them alone breaks the network, so both stay.
        ({"second": 0.25}, {"other": 8}),
    ],
)
def test_only_the_groups_that_break_the_network_are_protected(ratios: dict[str, float], expected: dict[str, int]) -> None:
    model = Counted().eval()
    found = prune_channels_(model, (torch.randn(2, 3, 4, 4),), ratio=0.5, round_to=1, ratios=ratios)
    assert {name: after for name, (_, after) in found.items()} == expected


class Together(nn.Module):
    """Breaks where two layers are narrow at once, though each may be so alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 16, 1) for _ in range(5))
        self.head = nn.Linear(80, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [layer(x) for layer in self.layers]
        if parts[1].shape[1] + parts[3].shape[1] < 20:
            raise RuntimeError("too narrow")
        return self.head(torch.cat(parts, 1).mean((2, 3)))


def test_of_two_that_cannot_both_be_cut_one_is() -> None:
    model = Together().eval()
    found = prune_channels_(model, (torch.randn(2, 3, 4, 4),), ratio=0.5, round_to=1)
    assert found == {f"layers.{number}": (16, 8) for number in (0, 1, 2, 4)}


@pytest.mark.parametrize(("width", "groups"), [(16, 8), (32, 8), (16, 4), (8, 8)])
def test_groups_of_a_few_inputs_keep_their_number_and_depthwise_ones_do_not(width: int, groups: int) -> None:
    """With two inputs to a group, half of them leaves one, which is not a depthwise convolution of half as many groups."""
    model = nn.Sequential(
        nn.Conv2d(3, width, 1),
        nn.Conv2d(width, 32, 3, groups=groups),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()
    original, x = copy.deepcopy(model), torch.randn(2, 3, 4, 4)
    changed = prune_channels_(model, (x,), ratio=0.5, round_to=1)
    assert changed == {"0": (width, width // 2), "1": (32, 16), "3": (8, 4)}
    assert model[1].groups == (groups if width > groups else groups // 2)
    assert model(x).shape == original(x).shape


def test_a_module_that_is_used_twice_is_cut_once_and_nothing_is_left_behind() -> None:
    shared = nn.Conv2d(32, 32, 3, padding=1)
    model = marked(
        nn.Sequential(nn.Conv2d(3, 32, 3), shared, nn.ReLU(), shared, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    )
    original, x = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    cut = compress.apply(PruneChannels(), model, compress.Task((x,)))
    assert torch.equal(model(x), original(x))
    for network in (model, cut):
        assert [type(p) for p in network.parameters()] == [nn.Parameter] * 6
        assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    assert cut[1] is cut[3]
    assert cut[1].weight.shape == (16, 16, 3, 3)


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


class TiedTransposed(nn.Module):
    """An autoencoder whose decoder has the encoder's weights, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.b(F.relu(self.a(x))))
        return F.linear(F.relu(F.linear(hidden, self.b.weight.t())), self.a.weight.t())


def test_a_weight_that_is_used_a_second_time_transposed_is_cut() -> None:
    model, x = TiedTransposed().eval(), torch.randn(3, 20)
    assert prune_channels_(model, (x,), ratio=0.5) == {"a": (64, 32), "b": (32, 16)}
    assert model(x).shape == (3, 20)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.conv(x).mean((2, 3)), training=True))


class Flags(nn.Module):
    """Gives booleans beside numbers, and nothing for one of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.head(self.conv(x).mean((2, 3)))
        return {"y": y, "positive": y > 0, "none": y[:, :0]}


class Frames(nn.Module):
    """Sees the batch as clips of four frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        clips = self.conv(x).mean((2, 3))
        return self.head(clips.view(len(x) // 4, 4, -1).mean(1))


def test_a_forward_that_draws_random_numbers_is_told() -> None:
    with pytest.raises(PassError) as error:
        compress.apply(PruneChannels(), Noisy(), compress.Task((torch.randn(2, 3, 4, 4),)))
    assert str(error.value) == (
        "prune_channels could remove nothing at ratio 0.5; the model from before stands; protected are conv: the forward gives "
        "other outputs each time it is called, so that no cut can be verified; head: an output of the model"
    )


@pytest.mark.parametrize(("model", "batch"), [(Flags, 2), (Frames, 8)])
def test_outputs_of_other_kinds_and_batches_of_a_fixed_size_are_verified(model: type[nn.Module], batch: int) -> None:
    network, x = model().eval(), torch.randn(batch, 3, 4, 4)
    assert compress.apply(PruneChannels(), network, compress.Task((x,))).conv.out_channels == 8
    assert compress.plan(network, compress.Task((x,))).widths == {"conv": (16, 8)}


def test_a_rule_that_fails_protects_and_says_so() -> None:
    @register("compress_test::odd")
    def fails(trace: object, out: object, args: object) -> None:
        raise ValueError("of a shape that was not foreseen")

    @torch.library.custom_op("compress_test::odd", mutates_args=())
    def odd(x: Tensor) -> Tensor:
        return x * 2

    odd.register_fake(lambda x: torch.empty_like(x))

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(odd(self.a(x))).mean((2, 3)))

    planned = compress.plan(Odd(), compress.Task((torch.randn(2, 3, 4, 4),)), PruneChannels())
    reasons = {group.name: group.reason for group in planned.groups}
    assert reasons["a"] == "goes into compress_test::odd, whose rule fails on it (of a shape that was not foreseen)"
    assert planned.widths == {"b": (16, 8)}
    assert planned.size_bytes == (None, None)


def test_a_model_that_is_pruned_in_place_stays_in_its_mode_and_can_be_trained() -> None:
    model = Plain().train()
    prune_channels_(model, (torch.randn(2, 3, 8, 8),), ratio=0.5)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
