"""A criterion of one's own: given, registered, and refused."""

import copy
import doctest

import pytest
import torch
from torch import Tensor, nn

import compress
from compress.errors import UserError
from compress.passes.prune_channels import PruneChannels
from compress.pruning import criteria
from compress.pruning.channels import prune_channels_
from compress.pruning.criteria import CRITERIA, Criterion, Evidence, Score, register_criterion
from compress.recipe import make_pass
from compress.testing import tiny_model, tiny_task


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
