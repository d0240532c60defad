"""One small network for each kind of operator: any half of its channels can go, exactly; or it stays, and says why."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.pruning import rules
from compress.pruning.channels import ChannelPruner, Settings
from compress.pruning.cut import cut_copy
from compress.pruning.groups import Group, find_groups
from compress.pruning.oracle import difference, outputs_without
from compress.pruning.rules import table

IMAGE = (2, 3, 8, 8)


class Net(nn.Module):
    """A convolution to 16 channels `y`, what `body` makes of them, and a linear layer to 5 numbers.

    `body` gets the network, for its layers, and `y`; a result with pixels is averaged over them.
    """

    def __init__(self, body: Callable[[nn.Module, Tensor], Tensor], width: int = 16, **layers: nn.Module) -> None:
        super().__init__()
        self.conv, self.head, self.body = layers.pop("conv", nn.Conv2d(3, 16, 3, padding=1)), nn.Linear(width, 5), body
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self, self.conv(x))
        return self.head(x.flatten(2).mean(2) if x.ndim > 2 else x)


def marked(model: nn.Module) -> nn.Module:
    """In eval mode, with numbers of its own everywhere, so that a channel that was confused with another shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def free(groups: list[Group]) -> list[Group]:
    return [group for group in groups if group.fixed is None]


def shapes(groups: list[Group]) -> dict[str, tuple[int, int]]:
    return {group.name: (group.units, group.width) for group in groups}


def half_of_each(groups: list[Group]) -> list[tuple[Group, tuple[int, ...]]]:
    generator = torch.Generator().manual_seed(0)
    return [(group, tuple(torch.randperm(group.units, generator=generator)[: group.units // 2].tolist())) for group in groups]


def assert_exact(model: nn.Module, x: Tensor, expected: dict[str, tuple[int, int]]) -> None:
    """The groups are these, name -> (units, width), and any half of each can go."""
    groups = free(find_groups(marked(model), (x,)))
    assert shapes(groups) == expected
    cuts = half_of_each(groups)
    assert difference(model, cut_copy(model, cuts), cuts, (x,)) < 1e-12
    # And a wrong cut would be seen: without these channels the original gives something else.
    [whole], [masked] = (outputs_without(model, some, (x.double(),)).values() for some in ([], cuts))
    assert float((whole - masked).abs().max()) > 1e-3


def reasons(model: nn.Module, x: Tensor) -> dict[str, str | None]:
    """By group, the head left out: why it stays."""
    return {group.name: group.fixed for group in find_groups(marked(model), (x,)) if group.name != "head"}


def halves(y: Tensor) -> tuple[Tensor, Tensor]:
    width = y.shape[1] // 2
    return y[:, :width], y[:, width:]


def first_and_rest(y: Tensor) -> Tensor:
    """Two quarters, and a half of two quarters."""
    quarter = y.shape[1] // 4
    return torch.cat([y[:, :quarter].relu(), y[:, quarter : 2 * quarter].sigmoid(), y[:, 2 * quarter :]], 1)


def zero_half_(y: Tensor) -> Tensor:
    y[:, : y.shape[1] // 2] = 0
    return y


EXACT: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[int, int]]]] = {
    "two slices": (lambda: Net(lambda net, y: halves(y)[0] * halves(y)[1], 8), {"conv": (8, 2)}),
    "slices counted from the end": (lambda: Net(lambda net, y: y[:, -(y.shape[1] // 2) :].relu(), 8), {"conv": (8, 2)}),
    "slices of a quarter and a half": (lambda: Net(lambda net, y: first_and_rest(y)), {"conv": (4, 4)}),
    "assignment to a slice": (lambda: Net(lambda net, y: zero_half_(y)), {"conv": (8, 2)}),
    "gating with chunks": (lambda: Net(lambda net, y: y.chunk(2, 1)[0] * y.chunk(2, 1)[1].sigmoid(), 8), {"conv": (8, 2)}),
    "glu": (lambda: Net(lambda net, y: F.glu(y, 1), 8), {"conv": (8, 2)}),
    "split": (lambda: Net(lambda net, y: sum(y.split(y.shape[1] // 4, 1)), 4), {"conv": (4, 4)}),
    "roll of pixels": (lambda: Net(lambda net, y: torch.roll(y, (1, 2), (2, 3))), {"conv": (16, 1)}),
    "flip of pixels": (lambda: Net(lambda net, y: y.flip(3)[..., :2]), {"conv": (16, 1)}),
    "repeat of channels": (lambda: Net(lambda net, y: y.repeat(1, 2, 1, 1), 32), {"conv": (16, 1)}),
    "repeat of pixels": (lambda: Net(lambda net, y: y.repeat(1, 1, 2, 3)), {"conv": (16, 1)}),
    "repeat of each channel": (lambda: Net(lambda net, y: y.repeat_interleave(2, 1), 32), {"conv": (16, 1)}),
    "concatenation with itself": (lambda: Net(lambda net, y: torch.cat([y, y.relu()], 1), 32), {"conv": (16, 1)}),
    "stack, one after the other": (
        lambda: Net(lambda net, y: torch.stack([y, y.relu()], 1).flatten(1, 2), 32),
        {"conv": (16, 1)},
    ),
    "stack, by turns": (lambda: Net(lambda net, y: torch.stack([y, y.relu()], 2).flatten(1, 2), 32), {"conv": (16, 1)}),
    "stack, summed": (lambda: Net(lambda net, y: torch.stack([y, y.relu()]).sum(0)), {"conv": (16, 1)}),
    "one pixel": (lambda: Net(lambda net, y: y[:, :, 0, 1]), {"conv": (16, 1)}),
    "pixels by number": (lambda: Net(lambda net, y: y.flatten(2)[:, :, torch.tensor([3, 1, 1])]), {"conv": (16, 1)}),
    "pixels in reverse": (lambda: Net(lambda net, y: torch.stack(y.unbind(2)[::-1], 2)[:, :, :2]), {"conv": (16, 1)}),
    "cumsum over pixels": (lambda: Net(lambda net, y: y.cumsum(2)), {"conv": (16, 1)}),
    "softmax over pixels": (lambda: Net(lambda net, y: y * y.flatten(2).softmax(2).view_as(y)), {"conv": (16, 1)}),
    "norm over pixels": (lambda: Net(lambda net, y: torch.linalg.vector_norm(y, ord=1, dim=(2, 3))), {"conv": (16, 1)}),
    "variance over pixels": (lambda: Net(lambda net, y: y.var((2, 3), correction=0)), {"conv": (16, 1)}),
    "max and min over pixels": (lambda: Net(lambda net, y: y.amax((2, 3)) - y.flatten(2).min(2)[0]), {"conv": (16, 1)}),
    "padding of pixels": (lambda: Net(lambda net, y: F.pad(y, (1, 2, 0, 1)).relu()), {"conv": (16, 1)}),
    "instance norm": (lambda: Net(lambda net, y: net.norm(y).relu(), norm=nn.InstanceNorm2d(16, affine=True)), {"conv": (16, 1)}),
    "instance norm with running statistics": (
        lambda: Net(lambda net, y: net.norm(y).relu(), norm=nn.InstanceNorm2d(16, affine=True, track_running_stats=True)),
        {"conv": (16, 1)},
    ),
    "group norm": (lambda: Net(lambda net, y: net.norm(y).relu(), norm=nn.GroupNorm(2, 16)), {"conv": (8, 2)}),
    "prelu": (lambda: Net(lambda net, y: net.act(y), act=nn.PReLU(16)), {"conv": (16, 1)}),
    "prelu with one slope": (lambda: Net(lambda net, y: net.act(y), act=nn.PReLU()), {"conv": (16, 1)}),
    "transposed convolution": (
        lambda: Net(lambda net, y: net.up(y), 12, up=nn.ConvTranspose2d(16, 12, 3, stride=2)),
        {"conv": (16, 1), "up": (12, 1)},
    ),
    "convolution in groups": (
        lambda: Net(lambda net, y: net.mix(y), 24, mix=nn.Conv2d(16, 24, 3, groups=2)),
        {"conv": (8, 2), "mix": (12, 2)},
    ),
    "depthwise convolution that doubles": (
        lambda: Net(lambda net, y: net.deep(y), 32, deep=nn.Conv2d(16, 32, 3, groups=16)),
        {"conv": (16, 1)},
    ),
    "einsum": (
        lambda: Net(lambda net, y: torch.einsum("bchw,oc->bohw", y, net.map.weight), 12, map=nn.Linear(16, 12, bias=False)),
        {"conv": (16, 1), "map": (12, 1)},
    ),
    "queries, keys and values by chunks of one": (
        lambda: Net(lambda net, y: attention(net, y, lambda x: x.chunk(3, 2)), conv=nn.Conv2d(3, 48, 1)),
        {"conv": (2, 24)},
    ),
}


def attention(net: nn.Module, y: Tensor, parts: Callable[[Tensor], tuple[Tensor, ...]]) -> Tensor:
    """Two heads of width 8 over the pixels."""
    tokens = y.flatten(2).transpose(1, 2)
    q, k, v = (x.flatten(2, 3).transpose(1, 2) for x in parts(tokens.unflatten(2, (3, -1, 8))))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("name", EXACT)
def test_any_half_can_go(name: str) -> None:
    make, expected = EXACT[name]
    assert_exact(make(), torch.randn(IMAGE), expected)


SUMMED = "summed over, or compared, as a whole"
BY_NUMBER = "its places are looked up by number"
EVEN = torch.arange(16) % 2 == 0

# Of each, why `conv` must stay.
STAYS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "slices of unequal parts": (
        lambda: Net(lambda net, y: torch.cat([y[:, :5].relu(), y[:, 5:]], 1)),
        "sliced into unequal parts",
    ),
    "three chunks of 16": (lambda: Net(lambda net, y: torch.cat(y.chunk(3, 1)[::-1], 1)), "sliced into unequal parts"),
    "every second channel": (lambda: Net(lambda net, y: y[:, ::2], 8), "sliced in steps"),
    "a slice of one channel": (lambda: Net(lambda net, y: y * y[:, 3:4]), BY_NUMBER),
    "one channel": (lambda: Net(lambda net, y: y * y[:, 3].unsqueeze(1)), BY_NUMBER),
    "each channel": (lambda: Net(lambda net, y: torch.stack(y.unbind(1)[::-1], 1)), BY_NUMBER),
    "channels by a mask": (lambda: Net(lambda net, y: y[:, EVEN], 8), BY_NUMBER),
    "channels by a mask behind numbers": (
        lambda: Net(lambda net, y: y.permute(2, 1, 0, 3)[torch.arange(8), EVEN].transpose(0, 1), 8),
        BY_NUMBER,
    ),
    "channels by numbers": (lambda: Net(lambda net, y: y[:, torch.arange(15, -1, -1)]), BY_NUMBER),
    "channels by index_select": (lambda: Net(lambda net, y: y.index_select(1, torch.arange(15, -1, -1))), BY_NUMBER),
    "gather of channels": (lambda: Net(lambda net, y: y.gather(1, torch.ones(2, 16, 8, 8).long())), BY_NUMBER),
    "gather from half of the channels": (
        lambda: Net(lambda net, y: y.gather(2, torch.ones(2, 8, 3, 8).long()), 8),
        "its length is changed",
    ),
    "gather from one channel": (
        lambda: Net(lambda net, y: y * y.gather(2, torch.ones(2, 1, 8, 8).long())),
        "its length is changed",
    ),
    "pooling over channels": (lambda: Net(lambda net, y: F.max_pool2d(y.flatten(2), 2), 8), "its length is changed"),
    "roll of channels": (lambda: Net(lambda net, y: torch.roll(y, 1, 1)), "its places change their order"),
    "roll of everything": (lambda: Net(lambda net, y: torch.roll(y, 1)), "its places change their order"),
    "flip of channels": (lambda: Net(lambda net, y: y.flip(1)), "its places change their order"),
    "cumsum": (lambda: Net(lambda net, y: y.cumsum(1)), SUMMED),
    "softmax": (lambda: Net(lambda net, y: y.softmax(1)), SUMMED),
    "log softmax": (lambda: Net(lambda net, y: y.log_softmax(-3)), SUMMED),
    "mean": (lambda: Net(lambda net, y: y * y.mean(1, keepdim=True)), SUMMED),
    "mean of everything": (lambda: Net(lambda net, y: y * y.mean()), SUMMED),
    "variance of everything": (lambda: Net(lambda net, y: y / y.var(correction=0)), SUMMED),
    "norm": (lambda: Net(lambda net, y: F.normalize(y, dim=1)), SUMMED),
    "norm with a whole number as its exponent": (lambda: Net(lambda net, y: y / torch.linalg.vector_norm(y, 1, 1, True)), SUMMED),
    "norm of everything": (lambda: Net(lambda net, y: y / y.norm()), SUMMED),
    "largest": (lambda: Net(lambda net, y: y * y.max(1, keepdim=True)[0]), SUMMED),
    "smallest": (lambda: Net(lambda net, y: y * y.min(1, keepdim=True)[0]), SUMMED),
    "place of the largest": (lambda: Net(lambda net, y: y * y.argmax(1, keepdim=True)), SUMMED),
    "padding": (lambda: Net(lambda net, y: F.pad(y, (0, 0, 0, 0, 2, 2)), 20), "padded with a fixed number of channels"),
    "instance norm by groups": (
        lambda: Net(lambda net, y: net.norm(y).relu(), norm=nn.GroupNorm(16, 16)),
        "an instance norm whose number of groups is written in the code",
    ),
    "group norm without weights": (lambda: Net(lambda net, y: F.group_norm(y, 2)), "a group norm without weights"),
    "layer norm over pixels too": (
        lambda: Net(lambda net, y: net.norm(y).relu(), norm=nn.LayerNorm((16, 8, 8))),
        "a layer norm over several axes",
    ),
    "layer norm without weights": (
        lambda: Net(lambda net, y: F.layer_norm(y.mean((2, 3)), (y.shape[1],)).relu()),
        "a layer norm without weights, whose width is written in the code",
    ),
    "an einsum of activations": (
        lambda: Net(lambda net, y: torch.einsum("bcn,bdn->bdc", y.flatten(2), y.flatten(2).relu()) @ y.flatten(2)),
        "two activations are multiplied and summed over it",
    ),
    "transposed convolution in groups": (
        lambda: Net(lambda net, y: net.up(y), 8, up=nn.ConvTranspose2d(16, 8, 3, groups=2)),
        "a transposed convolution in groups",
    ),
    "transposed depthwise convolution": (
        lambda: Net(lambda net, y: net.up(y), up=nn.ConvTranspose2d(16, 16, 3, groups=16)),
        "a transposed convolution in groups",
    ),
    "pixel shuffle": (
        lambda: Net(lambda net, y: F.pixel_shuffle(y, 2), 4),
        "goes into pixel_shuffle, for which there is no rule",
    ),
    "windows": (lambda: Net(lambda net, y: F.unfold(y, 2), 64), "goes into im2col, for which there is no rule"),
    "sorting": (lambda: Net(lambda net, y: y.sort(1)[0]), "goes into sort, for which there is no rule"),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_must_stay_says_why(name: str) -> None:
    make, reason = STAYS[name]
    model, x = make(), torch.randn(IMAGE)
    assert reasons(model, x)["conv"] == reason
    # Nothing is cut that is behind it either, unless it is exact.
    groups = free(find_groups(model, (x,)))
    cuts = half_of_each(groups)
    assert difference(model, cut_copy(model, cuts), cuts, (x,)) < 1e-12


@pytest.mark.parametrize("groups", [2, 16])
def test_a_transposed_convolution_in_groups_stays_itself(groups: int) -> None:
    model = Net(lambda net, y: net.up(y), 32, up=nn.ConvTranspose2d(16, 32, 3, groups=groups))
    assert set(reasons(model, torch.randn(IMAGE)).values()) == {"a transposed convolution in groups"}


@pytest.mark.parametrize(
    ("conv", "layer", "shape"),
    [
        (nn.Conv1d(3, 16, 3), nn.Conv1d(16, 12, 3, groups=2), (2, 3, 12)),
        (nn.Conv1d(3, 16, 3), nn.ConvTranspose1d(16, 12, 3), (2, 3, 12)),
        (nn.Conv3d(3, 16, 3), nn.Conv3d(16, 12, 2, groups=2), (2, 3, 6, 6, 6)),
        (nn.Conv3d(3, 16, 3), nn.ConvTranspose3d(16, 12, 2), (2, 3, 6, 6, 6)),
    ],
    ids=["1d, groups", "1d, transposed", "3d, groups", "3d, transposed"],
)
def test_convolutions_over_one_and_three_axes(conv: nn.Module, layer: nn.Module, shape: tuple[int, ...]) -> None:
    width = 2 if getattr(layer, "groups", 1) == 2 else 1
    model = Net(lambda net, y: net.layer(y.relu()), 12, conv=conv, layer=layer)
    assert_exact(model, torch.randn(shape), {"conv": (16 // width, width), "layer": (12 // width, width)})


class RankOne(nn.Linear):
    """A linear layer that sums its inputs: its weight is one column, repeated."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.expand(-1, x.shape[1]), self.bias)


def test_a_column_that_is_repeated_is_an_axis_of_outputs() -> None:
    model, x = Net(lambda net, y: net.sum(y.mean((2, 3))), sum=RankOne(1, 16)), torch.randn(IMAGE)
    assert reasons(model, x) == {"conv": "reads the model's input, or values of a fixed number", "sum": None}
    cuts = half_of_each(free(find_groups(model, (x,))))
    assert difference(model, cut_copy(model, cuts), cuts, (x,)) < 1e-12


@pytest.mark.parametrize(
    ("body", "width", "reason"),
    [
        (
            lambda net, y: y[:, :8] * y[:, 8:],
            8,
            "cutting it breaks the forward at 'conv' "
            "(The size of tensor a (8) must match the size of tensor b (0) at non-singleton dimension 1)",
        ),
        (
            lambda net, y: y.view(-1, 16, 64),
            16,
            "cutting it breaks the forward at 'head' (mat1 and mat2 shapes cannot be multiplied (1x16 and 8x5))",
        ),
    ],
    ids=["slices", "a view"],
)
def test_widths_that_are_written_in_the_code_are_found_by_trying(body: Callable[..., Tensor], width: int, reason: str) -> None:
    model, x = marked(Net(body, width)), torch.randn(IMAGE)
    pruner = ChannelPruner(model, (x,), Settings(round_to=1))
    assert pruner.verified(0.5)[1] == []
    assert {group.name: group.fixed for group in pruner.groups} == {"conv": reason, "head": "an output of the model"}


@torch.library.custom_op("mylib::scale", mutates_args=())
def scale(x: Tensor, factor: float) -> Tensor:
    return x * factor


def test_an_operator_of_ones_own_is_followed_once_it_has_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RULES", dict(table.RULES))
    model, x = Net(lambda net, y: scale(y, 3.0)), torch.randn(IMAGE)
    assert reasons(model, x) == {"conv": "goes into mylib::scale, for which there is no rule"}
    rules.register("mylib::scale")(rules.pointwise)
    assert_exact(model, x, {"conv": (16, 1)})


def test_following_a_model_that_is_being_trained_leaves_its_statistics_alone() -> None:
    model = Net(lambda net, y: net.norm(y).relu(), norm=nn.BatchNorm2d(16)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_groups(model, (torch.randn(IMAGE),))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class HardSwish(nn.Module):
    """The activation of MobileNet v3, in place, and a zero made from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.b(F.hardswish(self.a(x), inplace=True)))
        return self.head(x.mean((2, 3))) + x.new_zeros(1)


def test_activations_without_the_tag_of_pointwise_operators_are_cut_through() -> None:
    model, x = HardSwish().eval(), torch.randn(2, 3, 4, 4)
    found = find_groups(model, (x,))
    assert [(group.name, group.fixed) for group in found] == [("a", None), ("b", None), ("head", "an output of the model")]
    cuts = [(group, (0, 3, 5)) for group in found[:2]]
    assert difference(model, cut_copy(model, cuts), cuts, (x,)) < 1e-12


class UnevenlyFixed(nn.Module):
    """Units that stay and touch one axis a different number of times: a part of the channels is concatenated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 8, 1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sort(self.a(x).mean((2, 3)), 1).values + self.a(x).mean((2, 3))
        return self.head(torch.cat([x, x[:, ::2]], 1))


def test_units_that_stay_need_not_be_alike() -> None:
    model, x = UnevenlyFixed().eval(), torch.randn(2, 3, 4, 4)
    assert {group.name: group.fixed for group in find_groups(model, (x,))} == {
        "a": "goes into sort, for which there is no rule",
        "head": "an output of the model",
    }
