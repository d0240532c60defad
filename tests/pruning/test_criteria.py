"""Scores of four channels with a pencil; and what is gathered for them from a real network, with a few lines of torch."""

import copy
import doctest
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import compress
from compress.artifact import Artifact
from compress.errors import UserError
from compress.passes.prune_channels import PruneChannels
from compress.pruning import criteria
from compress.pruning.channels import ChannelPruner, Settings, prune_channels_
from compress.pruning.criteria import CRITERIA, Criterion, Evidence, Score, register_criterion
from compress.pruning.evidence import scores
from compress.pruning.groups import Group, find_groups
from compress.recipe import make_pass
from compress.testing import tiny_model, tiny_task
from compress.testing.architectures import build

# A group of four channels: what makes them, two numbers each, and what reads them, one number each.
MADE = [[3, 4], [1, 0], [0, -2], [1, -1]]
READ = [[1], [2], [0], [-4]]


def evidence(**given: object) -> Evidence:
    """What is given as lists, as tensors; `MADE` and `READ` where no weights are given."""
    fields = {key: [] for key in ("filters", "scales", "gradients", "activations", "zeros")}
    values = {"weights": [MADE, READ], **fields, **given}
    reads = values.pop("reads", [False, True])
    tensors = {k: [torch.tensor(x, dtype=torch.float32) for x in v] for k, v in values.items()}
    return Evidence(units=4, reads=reads, generator=torch.Generator().manual_seed(7), **tensors)


def score(name: str, **given: object) -> list[float] | None:
    found = CRITERIA[name].score(evidence(**given))
    return None if found is None else found.tolist()


WEIGHTS = [[[1, 2], [3, 0], [1, 1], [2, -1]], [[1], [2], [3], [4]]]
GRADIENTS = [[[1, 1], [2, 5], [1, -1], [0, 3]], [[1], [0], [2], [-1]]]
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
        # Squares 2, 8, 1, 5; over the sums of those that are not smaller, from the smallest: 16, 15, 13, 8.
        ("lamp", {"weights": [[[1, 1], [2, 2], [1, 0], [2, 1]]]}, [2 / 15, 1, 1 / 16, 5 / 13]),
        ("lamp", {"weights": [[[10, 10], [20, 20], [10, 0], [20, 10]]]}, [2 / 15, 1, 1 / 16, 5 / 13]),
        ("lamp", {"weights": [[[0], [0], [0], [0]]]}, [0, 0, 0, 0]),
        ("lamp", {"weights": [[[1], [1], [2], [1]]]}, [1 / 5, 1 / 6, 1, 1 / 7]),  # of equal ones the first is the largest
        # Weights times gradients, summed: 3, 6, 0, -3 and 1, 0, 6, -4. The second reads; or both do, and their sum is squared.
        ("taylor", {"weights": WEIGHTS, "gradients": GRADIENTS}, [1, 0, 36, 16]),
        ("taylor", {"weights": WEIGHTS, "gradients": GRADIENTS, "reads": [True, True]}, [16, 36, 36, 49]),
        # Half of 1+4, 36, 1+1, 9, and half of 1, 0, 36, 16.
        ("obd", {"weights": WEIGHTS, "gradients": GRADIENTS}, [1.5, 9, 9.5, 6.25]),
        ("activation", {"activations": [[1, 2, 3, 4], [3, 0, 2, 0]]}, [2, 1, 2.5, 2]),
        ("apoz", {"zeros": [[0, 0.5, 1, 0.25], [0, 0.5, 0.5, 0.75]]}, [1, 0.5, 0.25, 0.5]),
        ("elastic_net", {}, [8.5, 2, 1.5, 6]),
        # Singular values 3 and 4; 2 and 0; 5 and 0; 5 and 0.
        ("nuclear", {"filters": [[[[3, 0], [0, 4]], [[1, 1], [1, 1]], [[0, -5], [0, 0]], [[3, 0], [4, 0]]]]}, [7, 2, 5, 5]),
        ("nuclear", {"filters": [[[[3, 4]], [[1, 0]], [[0, -2]], [[6, 8]]]]}, [5, 1, 2, 10]),  # of vectors their length
    ],
)
def test_the_score_of_four_channels(name: str, given: dict[str, object], expected: list[float]) -> None:
    assert score(name, **given) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["bn_scale", "activation", "apoz"])
def test_criteria_that_see_nothing_give_no_score(name: str) -> None:
    assert score(name) is None


def test_a_channel_that_no_weight_reads_has_no_gate() -> None:
    assert score("taylor", weights=WEIGHTS, gradients=GRADIENTS, reads=[False, False]) is None


def test_within_a_group_lamp_ranks_as_l2_does_ties_included() -> None:
    weights = torch.randint(1, 5, (200, 1)).tolist()
    orders = [CRITERIA[name].score(evidence(weights=[weights])).argsort(descending=True, stable=True) for name in ("lamp", "l2")]
    assert torch.equal(*orders)


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
    alike = {name for name, criterion in CRITERIA.items() if criterion.comparable}
    assert alike == {"lamp", "taylor", "obd", "random", "bn_scale"}
    assert all(criterion.name == name for name, criterion in CRITERIA.items())


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
        return F.relu(F.scaled_dot_product_attention(q, k, v)).transpose(1, 2).reshape(len(x), 5, -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.proj(self.mixed(x)).mean(1))


def free_groups(model: nn.Module, x: Tensor) -> list[Group]:
    return [group for group in find_groups(model, (x,)) if group.fixed is None]


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


UNSEEN = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Flatten(), nn.Linear(32, 3)).eval()


@pytest.mark.parametrize("name", ["activation", "apoz", "bn_scale"])
def test_where_a_criterion_sees_nothing_the_l2_score_stands_in_and_a_note_says_so(name: str) -> None:
    x = torch.randn(2, 3, 2, 2)
    groups = [group for group in free_groups(UNSEEN, x) if group.name == "0"]
    [found], notes = scores(UNSEEN, groups, CRITERIA[name], lambda: [(x,)])
    [expected], none = scores(UNSEEN, groups, CRITERIA["l2"], None)
    assert torch.allclose(found / found.mean(), expected / expected.mean())
    assert notes == [f"scored by l2 instead, since {name} finds nothing to go by in: 0"]
    assert none == []


def test_a_criterion_that_is_the_same_for_all_channels_removes_no_last_half() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GELU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).eval()
    x = torch.randn(2, 3, 2, 2)
    groups = free_groups(model, x)
    found, notes = scores(model, groups, CRITERIA["apoz"], lambda: [(x,)])
    expected, _ = scores(model, groups, CRITERIA["l2"], None)
    assert torch.equal(found[0], expected[0])  # GELU gives no zeros
    assert torch.allclose(found[1], 1 - (model[:4](x) == 0).float().mean((0, 2, 3)))
    assert notes == ["scored by l2 instead, since apoz finds the same for all channels of: 0"]


def test_a_stand_in_for_scores_that_are_comparable_is_as_large_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(32, 3)).eval()
    nn.init.uniform_(model[1].weight, 4, 6)
    found, _ = scores(model, free_groups(model, torch.randn(2, 3, 2, 2)), CRITERIA["bn_scale"], None)
    assert torch.equal(found[0], model[1].weight.detach())
    assert float(found[1].mean()) == pytest.approx(float(found[0].mean()))


def test_run_and_plan_note_what_l2_scored_instead() -> None:
    task = compress.Task((torch.randn(2, 3, 2, 2),), calibration=lambda: [(torch.randn(2, 3, 2, 2),)])
    pruning = PruneChannels(criterion="activation", round_to=1)
    artifact = Artifact.start(copy.deepcopy(UNSEEN), task)
    pruning.apply(artifact)
    expected = "scored by l2 instead, since activation finds nothing to go by in: 0"
    assert artifact.notes[0] == compress.plan(copy.deepcopy(UNSEEN), task, pruning).notes[0] == expected
    assert sum(note.startswith("scored by") for note in artifact.notes) == 1


def test_every_group_of_gpt2_is_seen() -> None:
    model, inputs = build("GPT-2")
    assert ChannelPruner(model, inputs, Settings("activation"), lambda: [inputs]).notes == []


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


@pytest.mark.parametrize("name", ["taylor", "obd", "activation", "apoz"])
@pytest.mark.parametrize("batches", [None, list])
def test_without_a_batch_nothing_is_measured(name: str, batches: Callable[[], list] | None, residual: nn.Module) -> None:
    groups = free_groups(residual, torch.randn(2, 3, 6, 6))
    with pytest.raises(UserError) as error:
        scores(residual, groups, CRITERIA[name], batches)
    assert str(error.value) == f"the criterion {name} measures on batches, and there are none; give data, or another criterion"


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


@pytest.mark.parametrize("criterion", ["l2", "taylor", "activation", "nuclear"])
def test_scoring_leaves_the_model_as_it_was(criterion: str, residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    residual.train().a.eval()
    residual.a.weight.requires_grad_(False)
    residual.head.bias.requires_grad_(False)
    residual.head.weight.grad = torch.ones(3, 4)
    groups = free_groups(residual.eval(), batches[0][0])
    residual.train().a.eval()
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    used = batches if CRITERIA[criterion].measures == "gradients" else [batch[:1] for batch in batches]
    scores(residual, groups, CRITERIA[criterion], lambda: used)
    assert {name for name, parameter in residual.named_parameters() if not parameter.requires_grad} == {"a.weight", "head.bias"}
    assert {name for name, parameter in residual.named_parameters() if parameter.grad is not None} == {"head.weight"}
    assert {name for name, module in residual.named_modules() if not module.training} == {"a"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in residual.modules())


def test_requires_grad_comes_back_even_after_an_error(residual: nn.Module, images: Tensor) -> None:
    residual.requires_grad_(False)
    groups = free_groups(residual, images)
    with pytest.raises(IndexError):
        scores(residual, groups, CRITERIA["taylor"], lambda: [(images, torch.full((8,), 9))])  # of three classes
    assert not any(parameter.requires_grad for parameter in residual.parameters())


def test_the_seed_draws_the_random_scores(residual: nn.Module, images: Tensor) -> None:
    groups = free_groups(residual, images)
    one, same, other = (scores(residual, groups, CRITERIA["random"], None, seed=seed)[0][0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    cut = [prune_channels_(copy.deepcopy(residual), (images,), ratio=0.5, round_to=1, criterion="random") for _ in range(2)]
    assert cut[0] == cut[1]
    networks = [copy.deepcopy(residual) for _ in range(8)]
    for seed, network in enumerate(networks):
        prune_channels_(network, (images,), ratio=0.5, round_to=1, criterion="random", seed=seed)
    assert len({tuple(network.norm.weight.tolist()) for network in networks}) > 1


def test_weights_are_made_one_at_a_time(residual: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    found = gathered(residual, batches[0][0], "gradients", batches)["a"]
    assert len(found.weights) == 5
    for lazy in (found.weights, found.gradients):
        assert lazy[1] is not lazy[1]
        assert [tuple(rows.shape) for rows in lazy[:2]] == [(4, 27), (4, 1)]


def reverse(evidence: Evidence) -> Tensor:
    """A criterion of one's own: the last channels matter most."""
    return torch.arange(float(evidence.units))


@pytest.mark.parametrize("criterion", [reverse, Criterion(reverse), lambda evidence: reverse(evidence)])
def test_a_criterion_of_ones_own(criterion: Criterion | Score, residual: nn.Module, images: Tensor) -> None:
    scales = residual.norm.weight.tolist()
    assert prune_channels_(residual, (images,), ratio=0.5, round_to=1, criterion=criterion) == {"a": (4, 2), "b": (4, 2)}
    assert residual.norm.weight.tolist() == scales[2:]


def test_a_criterion_of_ones_own_may_see_nothing_in_a_group(residual: nn.Module, images: Tensor) -> None:
    def blind(evidence: Evidence) -> Tensor | None:
        return None

    one, other = copy.deepcopy(residual), residual
    with pytest.warns(UserWarning) as warned:
        prune_channels_(one, (images,), ratio=0.5, round_to=1, criterion=blind)
    assert [str(one.message) for one in warned] == ["scored by l2 instead, since blind finds nothing to go by in: a"]
    prune_channels_(other, (images,), ratio=0.5, round_to=1)
    assert torch.equal(one.norm.weight, other.norm.weight)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda evidence: torch.ones(3, 2),
            "the criterion <lambda> gave a tensor of shape (3, 2) for the group of a; one score per unit is needed, of shape (4,)",
        ),
        (
            lambda evidence: 1.0,
            "the criterion <lambda> gave a float for the group of a; one score per unit is needed, of shape (4,)",
        ),
        (
            lambda evidence: torch.tensor([1.0, float("nan"), 2.0, 3.0]),
            "the criterion <lambda> gave a NaN or an infinity for the group of a",
        ),
        (
            lambda evidence: evidence.rows,
            "<lambda> cannot score the channels (AttributeError: 'Evidence' object has no attribute 'rows')",
        ),
        ("tailor", "there is no criterion 'tailor'. Did you mean 'taylor'?"),
        (
            3,
            "a criterion is a name, a Criterion, a function from evidence to scores, or an importance of torch_pruning; got a int",
        ),
    ],
)
def test_what_cannot_score_is_told(given: object, message: str, residual: nn.Module, images: Tensor) -> None:
    with pytest.raises(UserError) as error:
        prune_channels_(residual, (images,), ratio=0.5, criterion=given)
    assert str(error.value) == message


@pytest.mark.parametrize(("criterion", "needs"), [(reverse, ()), (Criterion(reverse, "gradients"), ("train",))])
def test_a_registered_criterion_is_known_to_the_pass_and_to_recipes(criterion: Criterion | Score, needs: tuple[str, ...]) -> None:
    register_criterion("by_order", criterion)
    try:
        made = make_pass("prune_channels", {"criterion": "by_order"})
        assert made == PruneChannels(criterion="by_order")
        assert made.needs == needs
        model = tiny_model()
        assert torch.equal(compress.apply(made, model, tiny_task()).stem.weight, model.stem.weight[8:])
        with pytest.raises(UserError) as error:
            register_criterion("by_order", reverse)
        assert str(error.value) == "there is a criterion 'by_order' already; give yours another name"
    finally:
        del CRITERIA["by_order"]


def test_the_example_runs() -> None:
    try:
        assert doctest.testmod(criteria) == (0, 5)
    finally:
        CRITERIA.pop("largest", None)
