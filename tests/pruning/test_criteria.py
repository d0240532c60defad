"""Scores of four channels with a pencil; and what is gathered for them from a real network, with a few lines of torch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.pruning.criteria import CRITERIA, Criterion, Evidence
from compress.pruning.evidence import scores
from compress.pruning.groups import Group, find_groups

# A group of four channels: what makes them, two numbers each, and what reads them, one number each.
MADE = [[3, 4], [1, 0], [0, -2], [1, -1]]
READ = [[1], [2], [0], [-4]]


def evidence(**given: object) -> Evidence:
    """What is given as lists, as tensors; `MADE` and `READ` where no weights are given."""
    fields = {key: [] for key in ("filters", "scales", "gradients", "squared_gradients", "activations", "zeros")}
    values = {"weights": [MADE, READ], **fields, **given}
    generator = torch.Generator().manual_seed(7)
    return Evidence(**{k: [torch.tensor(x, dtype=torch.float32) for x in v] for k, v in values.items()}, generator=generator)


def score(name: str, **given: object) -> list[float]:
    return CRITERIA[name].score(evidence(**given)).tolist()


# Sums of absolute values: 7, 1, 2, 2 and 1, 2, 0, 4. Sums of squares: 25, 1, 4, 2 and 1, 4, 0, 16.
L1 = [4, 1.5, 1, 3]
L2 = [13, 2.5, 2, 9]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("l1", {}, L1),
        ("l2", {}, L2),
        # A right triangle of sides 3, 4, 5, whose right angle lies between two corners that are 6 apart: the sums of distances
        # are 3 + 5 + 6, 4 + 5 + 5, 3 + 4 + 3 and 6 + 5 + 3. On the line they are 8, 8, 8 and 24.
        ("fpgm", {"weights": [[[0, 0], [3, 4], [3, 0], [6, 0]], [[0], [0], [0], [8]]]}, [11, 11, 9, 19]),
        ("bn_scale", {"scales": [[[2], [-3], [0.5], [1]], [[4], [1], [0.5], [-1]]]}, [3, 2, 0.5, 1]),
        ("bn_scale", {}, L2),
        # Squares 2, 8, 1, 5; over the sums of those that are as large, from the smallest: 16, 15, 13, 8.
        ("lamp", {"weights": [[[1, 1], [2, 2], [1, 0], [2, 1]]]}, [2 / 15, 1, 1 / 16, 5 / 13]),
        ("lamp", {"weights": [[[10, 10], [20, 20], [10, 0], [20, 10]]]}, [2 / 15, 1, 1 / 16, 5 / 13]),
        ("lamp", {"weights": [[[0], [0], [0], [0]]]}, [0, 0, 0, 0]),
        # Weights times gradients, summed: 3, 6, 0, -3 and 1, 0, 6, -4; the sum is squared, not its parts.
        (
            "taylor",
            {
                "weights": [[[1, 2], [3, 0], [1, 1], [2, -1]], [[1], [2], [3], [4]]],
                "gradients": [[[1, 1], [2, 5], [1, -1], [0, 3]], [[1], [0], [2], [-1]]],
            },
            [5, 18, 18, 12.5],
        ),
        # Half of 1*2+4*1, 9*2, 1*4, 4*1+1*2, and half of 1*4, 4*1, 9*2, 16*0.5.
        (
            "obd",
            {
                "weights": [[[1, 2], [3, 0], [1, 1], [2, -1]], [[1], [2], [3], [4]]],
                "squared_gradients": [[[2, 1], [2, 7], [0, 4], [1, 2]], [[4], [1], [2], [0.5]]],
            },
            [2.5, 5.5, 5.5, 3.5],
        ),
        ("activation", {"activations": [[1, 2, 3, 4], [3, 0, 2, 0]]}, [2, 1, 2.5, 2]),
        ("activation", {}, L2),
        ("apoz", {"zeros": [[0, 0.5, 1, 0.25], [0, 0.5, 0.5, 0.75]]}, [1, 0.5, 0.25, 0.5]),
        ("apoz", {}, L2),
        ("elastic_net", {}, [8.5, 2, 1.5, 6]),
        # Singular values 3 and 4; 2 and 0; 5 and 0; 5 and 0.
        ("nuclear", {"filters": [[[[3, 0], [0, 4]], [[1, 1], [1, 1]], [[0, -5], [0, 0]], [[3, 0], [4, 0]]]]}, [7, 2, 5, 5]),
        ("nuclear", {}, L2),
    ],
)
def test_the_score_of_four_channels(name: str, given: dict[str, object], expected: list[float]) -> None:
    assert score(name, **given) == pytest.approx(expected, rel=1e-5)


def test_random_scores_come_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    assert score("random") == torch.rand(4, generator=torch.Generator().manual_seed(7)).tolist()


def test_every_criterion_of_the_table_was_scored_above_and_says_what_it_measures() -> None:
    marks = test_the_score_of_four_channels.pytestmark[0].args[1]
    assert {name for name, _, _ in marks} | {"random"} == set(CRITERIA)
    measures = {name: criterion.measures for name, criterion in CRITERIA.items() if criterion.measures}
    batches = {"taylor": "gradients", "obd": "gradients", "activation": "activations", "apoz": "activations"}
    assert measures == {**batches, "nuclear": "filters"}
    assert {name for name, criterion in CRITERIA.items() if criterion.needs_batches} == set(batches)


class Residual(nn.Module):
    """Images (batch, 3, 6, 6) to 3 logits; what `a` makes is added to what `b` makes of it, so that both go together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        return self.head(F.relu(x + self.b(x)).mean((2, 3)))


class Heads(nn.Module):
    """Tokens (batch, 5, 8) to 3 logits: one attention layer with two heads of width 4, queries, keys and values in one."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def mixed(self, x: Tensor) -> Tensor:
        """What the projection reads."""
        q, k, v = self.qkv(x).reshape(len(x), 5, 3, -1, 4).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 5, -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.proj(self.mixed(x)).mean(1))


def gathered(model: nn.Module, inputs: Tensor, measures: str | None, batches: list[tuple[Tensor, ...]]) -> dict[str, Evidence]:
    """By the group's name, what its criterion got to see."""
    seen: list[Evidence] = []

    def look(found: Evidence) -> Tensor:
        seen.append(found)
        return torch.zeros(1)

    groups = [group for group in find_groups(model, (inputs,)) if group.fixed is None]
    scores(model, groups, Criterion(look, measures), lambda: iter(batches))
    return {group.name: found for group, found in zip(groups, seen, strict=True)}


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Of the same shapes, up to rounding."""
    pairs = list(zip(found, expected, strict=True))
    return all(one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-7) for one, other in pairs)


def residual_rows(of: Callable[[str], Tensor]) -> list[Tensor]:
    """The numbers of each channel in everything that makes it, then in everything that reads it."""
    makers = [of("a.weight").flatten(1), of("norm.weight")[:, None], of("b.weight").flatten(1)]
    return [*makers, of("b.weight").transpose(0, 1).flatten(1), of("head.weight").T]


def by_autograd(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean and mean square of the gradients, with `backward`."""
    each = []
    for x, target in batches:
        model.zero_grad()
        F.cross_entropy(model(x), target).backward()
        each.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    model.zero_grad()
    names = [name for name, _ in model.named_parameters()]
    first = {name: sum(gradients[name] for gradients in each) / len(each) for name in names}
    return first, {name: sum(gradients[name] ** 2 for gradients in each) / len(each) for name in names}


@pytest.fixture
def residual() -> nn.Module:
    model = Residual().eval()
    with torch.no_grad():
        for tensor in (model.norm.weight, model.norm.running_var):
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(4, 3, 6, 6), torch.randint(0, 3, (4,))) for _ in range(3)]


def test_weights_of_a_residual_group(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    found = gathered(residual, batches[0][0], None, [])["a"]
    assert equal(found.weights, residual_rows(residual.get_parameter))
    assert equal(found.scales, [residual.norm.weight[:, None]])
    assert [found.filters, found.gradients, found.squared_gradients, found.activations, found.zeros] == [[], [], [], [], []]


def test_filters_of_a_residual_group_are_inputs_by_kernel(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    found = gathered(residual, batches[0][0], "filters", [])["a"]
    assert equal(found.filters, [residual.a.weight.flatten(2), residual.b.weight.flatten(2)])


def test_gradients_of_a_residual_group(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    found = gathered(residual, batches[0][0], "gradients", batches)["a"]
    first, second = by_autograd(residual, batches)
    assert equal(found.gradients, residual_rows(first.__getitem__))
    assert equal(found.squared_gradients, residual_rows(second.__getitem__))
    assert equal(found.weights, residual_rows(residual.get_parameter))


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


def test_a_reader_in_groups_is_not_watched_and_the_l2_score_stands_in() -> None:
    model, x = (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Flatten(), nn.Linear(32, 3)).eval(),
        torch.randn(2, 3, 2, 2),
    )
    groups = [group for group in find_groups(model, (x,)) if group.name == "0"]
    for name in ("activation", "apoz"):
        [found] = scores(model, groups, CRITERIA[name], lambda: [(x,)])
        [expected] = scores(model, groups, CRITERIA["l2"], None)
        assert torch.equal(found, expected)


def heads_of(model: nn.Module, x: Tensor) -> Group:
    [group] = [group for group in find_groups(model, (x,)) if group.name == "qkv" and group.fixed is None]
    assert (group.units, group.width) == (2, 12)
    return group


@pytest.mark.parametrize("criterion", ["l2", "taylor", "obd", "activation", "apoz", "nuclear"])
def test_a_head_is_scored_with_all_its_queries_keys_and_values(criterion: str) -> None:
    model, x = Heads().eval(), torch.randn(4, 5, 8)
    batches = [(torch.randn(4, 5, 8), torch.randint(0, 3, (4,))) for _ in range(2)]
    [found] = scores(
        model,
        [heads_of(model, x)],
        CRITERIA[criterion],
        lambda: batches if criterion in ("taylor", "obd") else [b[:1] for b in batches],
    )
    first, second = by_autograd(model, batches)
    expected = []
    for head in range(2):
        own = torch.arange(4 * head, 4 * head + 4)  # of eight queries, as of eight keys and eight values
        rows = torch.cat([own, own + 8, own + 16])
        made, read = model.qkv.weight.detach()[rows], model.proj.weight.detach()[:, own]
        gradients, squares = (
            (first["qkv.weight"][rows], first["proj.weight"][:, own]),
            (second["qkv.weight"][rows], second["proj.weight"][:, own]),
        )
        with torch.no_grad():
            inputs = torch.cat([model.mixed(x) for x, _ in batches])[..., own]
        expected.append(
            {
                "l2": lambda: (made.square().sum() + read.square().sum()) / 2,
                "taylor": lambda: ((made * gradients[0]).sum() ** 2 + (read * gradients[1]).sum() ** 2) / 2,
                "obd": lambda: ((made**2 * squares[0]).sum() + (read**2 * squares[1]).sum()) / 4,
                "activation": lambda: inputs.abs().mean(),
                "apoz": lambda: (inputs != 0).float().mean(),
                "nuclear": lambda: torch.linalg.matrix_norm(made, "nuc"),
            }[criterion]()
        )
    assert torch.allclose(found, torch.stack(expected), rtol=1e-4)


@pytest.mark.parametrize("criterion", ["l2", "taylor", "activation", "nuclear"])
def test_scoring_leaves_the_model_as_it_was(criterion: str, residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    residual.a.weight.requires_grad_(False)
    residual.head.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    groups = [group for group in find_groups(residual, batches[0][:1]) if group.fixed is None]
    used = batches if CRITERIA[criterion].measures == "gradients" else [batch[:1] for batch in batches]
    scores(residual, groups, CRITERIA[criterion], lambda: used)
    assert {name for name, parameter in residual.named_parameters() if not parameter.requires_grad} == {"a.weight", "head.bias"}
    assert all(parameter.grad is None for parameter in residual.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in residual.modules())


def test_requires_grad_comes_back_even_after_an_error(residual: nn.Module, images: Tensor) -> None:
    residual.requires_grad_(False)
    groups = [group for group in find_groups(residual, (images,)) if group.fixed is None]
    with pytest.raises(IndexError):
        scores(residual, groups, CRITERIA["taylor"], lambda: [(images, torch.full((8,), 9))])  # of three classes
    assert not any(parameter.requires_grad for parameter in residual.parameters())


def test_the_seed_draws_the_random_scores(residual: nn.Module, images: Tensor) -> None:
    groups = [group for group in find_groups(residual, (images,)) if group.fixed is None]
    one, same, other = (scores(residual, groups, CRITERIA["random"], None, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
