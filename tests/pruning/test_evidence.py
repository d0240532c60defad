"""What is gathered from a real network for a criterion, beside a few lines of torch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pruning.networks import free_groups
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compress.pruning.criteria import CRITERIA, Criterion, Evidence
from compress.pruning.evidence import scores
from compress.pruning.groups import Group, find_groups


def gathered(model: nn.Module, inputs: Tensor, measures: str | None, batches: list[tuple[Tensor, ...]]) -> dict[str, Evidence]:
    """By the group's name, what its criterion got to see; of gradients, those of the last batch."""
    seen: list[Evidence] = []

    def look(found: Evidence) -> Tensor:
        seen.append(found)
        return torch.arange(float(found.units))

    groups = free_groups(model, inputs)
    scores(model, groups, Criterion(look, measures), lambda: iter(batches))
    return {group.name: found for group, found in zip(groups, seen[-len(groups) :], strict=True)}


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Of the same shapes, up to rounding."""
    pairs = list(zip(found, expected, strict=True))
    return all(one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-7) for one, other in pairs)


def residual_rows(of: Callable[[str], Tensor]) -> list[Tensor]:
    """The numbers of each channel in everything that makes it, then in everything that reads it."""
    makers = [of("a.weight").flatten(1), of("norm.weight")[:, None], of("b.weight").flatten(1)]
    return [*makers, of("b.weight").transpose(0, 1).flatten(1), of("head.weight").T]


def by_autograd(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> list[dict[str, Tensor]]:
    """The gradients of each batch, with `backward`."""
    each = []
    for x, target in batches:
        model.zero_grad()
        F.cross_entropy(model(x), target).backward()
        each.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    model.zero_grad()
    return each


def test_weights_of_a_residual_group(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    found = gathered(residual, batches[0][0], None, [])["a"]
    assert equal(found.weights, residual_rows(residual.get_parameter))
    assert equal(found.scales, [residual.norm.weight[:, None]])
    assert [found.filters, found.gradients, found.activations, found.zeros] == [[], [], [], []]


def test_filters_of_a_residual_group_are_inputs_by_kernel(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    found = gathered(residual, batches[0][0], "filters", [])["a"]
    assert equal(found.filters, [residual.a.weight.flatten(2), residual.b.weight.flatten(2)])


def test_gradients_of_a_residual_group_are_those_of_each_batch(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    each = by_autograd(residual, batches)
    for number, gradients in enumerate(each, 1):
        found = gathered(residual, batches[0][0], "gradients", batches[:number])["a"]
        assert equal(found.gradients, residual_rows(gradients.__getitem__))
    assert equal(found.weights, residual_rows(residual.get_parameter))
    assert found.reads == [False, False, False, True, True]
    assert equal(found.weights[3:], residual_rows(residual.get_parameter)[3:])


def test_taylor_is_the_mean_over_batches_of_the_squared_gate(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    [group] = [group for group in free_groups(residual, batches[0][0]) if group.name == "a"]
    [found], notes = scores(residual, [group], CRITERIA["taylor"], lambda: batches)
    # The gates of the paper, where the channels are made: behind the norm, scale and shift; behind `b`, its row and bias.
    changes = []
    for gradients in by_autograd(residual, batches):
        of = {name: parameter.detach() * gradients[name] for name, parameter in residual.named_parameters()}
        changes.append(of["norm.weight"] + of["norm.bias"] + of["b.weight"].flatten(1).sum(1) + of["b.bias"])
    expected = torch.stack(changes).square().mean(0)
    assert torch.allclose(found, expected, rtol=1e-3)
    assert not torch.allclose(found, torch.stack(changes).mean(0).square(), rtol=0.1)  # signs of batches do not cancel
    assert notes == []


@torch.no_grad()
def test_activations_of_a_residual_group(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    found = gathered(residual, batches[0][0], "activations", [(x,) for x, _ in batches])["a"]
    everything = torch.cat([x for x, _ in batches])
    inner = F.relu(residual.norm(residual.a(everything)))  # what b reads
    pooled = F.relu(inner + residual.b(inner)).mean((2, 3))  # what the head reads
    assert equal(found.activations, [inner.abs().mean((0, 2, 3)), pooled.abs().mean(0)])
    assert equal(found.zeros, [(inner == 0).float().mean((0, 2, 3)), (pooled == 0).float().mean(0)])
    assert 0 < float(found.zeros[0].min()) < float(found.zeros[0].max()) < 1


def test_no_more_than_ten_batches_are_used(residual: nn.Module) -> None:
    batches = [(torch.full((1, 3, 6, 6), float(i)),) for i in range(12)]
    found = gathered(residual, batches[0][0], "activations", batches)["a"]
    assert equal(found.activations, gathered(residual, batches[0][0], "activations", batches[:10])["a"].activations)
    assert not equal(found.activations, gathered(residual, batches[0][0], "activations", batches[:9])["a"].activations)


def test_pixels_of_a_flattened_channel_are_averaged(flattening_net: nn.Module, images: Tensor) -> None:
    found = gathered(flattening_net, images, "activations", [(images,)])["conv"]
    read = F.relu(flattening_net.conv(images))
    assert equal(found.activations, [read.abs().mean((0, 2, 3))])
    assert equal(found.zeros, [(read == 0).float().mean((0, 2, 3))])
    assert equal(found.weights, [flattening_net.conv.weight.flatten(1), flattening_net.head.weight.T.reshape(4, -1)])


@torch.no_grad()
def test_the_transposed_linear_layer_is_watched() -> None:
    model = nn.Sequential(Conv1D(8, 3), nn.ReLU(), Conv1D(4, 8)).eval()
    x = torch.randn(5, 2, 3)
    [group] = free_groups(model, x)
    read = model[:2](x).flatten(0, 1)
    for name, expected in (("activation", read.abs().mean(0)), ("apoz", (read != 0).float().mean(0))):
        [found], notes = scores(model, [group], CRITERIA[name], lambda: [(x,)])
        assert torch.allclose(found, expected)
        assert notes == []


def test_weights_are_made_one_at_a_time(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    found = gathered(residual, batches[0][0], "gradients", batches)["a"]
    assert len(found.weights) == 5
    for lazy in (found.weights, found.gradients):
        assert lazy[1] is not lazy[1]
        assert [tuple(rows.shape) for rows in lazy[:2]] == [(4, 27), (4, 1)]


class Heads(nn.Module):
    """Tokens (batch, 5, 8) to 3 logits: one attention layer with two heads of width 4, queries, keys and values in one."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def mixed(self, x: Tensor) -> Tensor:
        """What the projection reads."""
        q, k, v = self.qkv(x).reshape(len(x), 5, 3, -1, 4).permute(2, 0, 3, 1, 4)
        return F.relu(F.scaled_dot_product_attention(q, k, v)).transpose(1, 2).reshape(len(x), 5, -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.proj(self.mixed(x)).mean(1))


def heads_of(model: nn.Module, x: Tensor) -> Group:
    [group] = [group for group in find_groups(model, (x,)) if group.name == "qkv" and group.fixed is None]
    assert (group.units, group.width) == (2, 12)
    return group


@pytest.mark.parametrize("criterion", ["l2", "taylor", "obd", "activation", "apoz", "nuclear"])
def test_a_head_is_scored_with_all_its_queries_keys_and_values(criterion: str) -> None:
    model, x = Heads().eval(), torch.randn(4, 5, 8)
    batches = [(torch.randn(4, 5, 8), torch.randint(0, 3, (4,))) for _ in range(2)]
    [found], _ = scores(
        model,
        [heads_of(model, x)],
        CRITERIA[criterion],
        lambda: batches if criterion in ("taylor", "obd") else [b[:1] for b in batches],
    )
    each = by_autograd(model, batches)
    expected = []
    for head in range(2):
        own = torch.arange(4 * head, 4 * head + 4)  # of eight queries, as of eight keys and eight values
        rows = torch.cat([own, own + 8, own + 16])
        made, read = model.qkv.weight.detach()[rows], model.proj.weight.detach()[:, own]
        gradients = [(of["qkv.weight"][rows], of["proj.weight"][:, own]) for of in each]
        with torch.no_grad():
            inputs = torch.cat([model.mixed(x) for x, _ in batches])[..., own]
        expected.append(
            {
                "l2": lambda: (made.square().sum() + read.square().sum()) / 2,
                "taylor": lambda: sum((read * of_read).sum() ** 2 for _, of_read in gradients) / 2,
                "obd": lambda: sum((made**2 * m**2).sum() / 2 + (read**2 * r**2).sum() / 2 for m, r in gradients) / 2 / 2,
                "activation": lambda: inputs.abs().mean(),
                "apoz": lambda: (inputs != 0).float().mean(),
                "nuclear": lambda: torch.linalg.matrix_norm(made, "nuc"),
            }[criterion]()
        )
    assert torch.allclose(found, torch.stack(expected), rtol=1e-4)
