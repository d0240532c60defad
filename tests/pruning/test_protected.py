"""What must not be cut, or cannot be, stays, and the reason is told."""

import pytest
import torch
import torch.nn.functional as F
from pruning.networks import Plain, Scaled
from torch import Tensor, nn

import compress
from compress.errors import PassError
from compress.passes.prune_channels import PruneChannels
from compress.pruning.channels import prune_channels_
from compress.pruning.rules import register


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
