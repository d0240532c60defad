"""Scores of four channels, with a pencil."""

import pytest
import torch

from compress.pruning.criteria import CRITERIA, Evidence

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
