"""Every built-in pass keeps the contract that third parties test theirs with; and the contract can be broken."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from compress.artifact import Artifact
from compress.passes import BUILT_IN, ORDER, find, names
from compress.testing import check_pass, tiny_model, tiny_task


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_pass_keeps_the_contract(name: str) -> None:
    kind = find(name)
    assert kind.name == name
    assert kind.stage in ORDER
    check_pass(kind())


def test_all_built_in_passes_are_listed() -> None:
    assert names()[: len(BUILT_IN)] == list(BUILT_IN)


@dataclass(frozen=True)
class Doubles:
    """Doubles the last bias: the smallest pass that does something."""

    factor: float = 2.0

    name: ClassVar[str] = "doubles"
    stage: ClassVar[str] = "sparsify"
    needs: ClassVar[tuple[str, ...]] = ()

    def apply(self, artifact: Artifact) -> nn.Module:
        with torch.no_grad():
            artifact.model.head.bias.mul_(self.factor)
        return artifact.model


def test_a_pass_of_somebody_else_needs_no_registration() -> None:
    result = check_pass(Doubles())
    assert torch.equal(result.head.bias, tiny_model().head.bias * 2)


class ChangesTheReference(Doubles):
    def apply(self, artifact: Artifact) -> nn.Module:
        with torch.no_grad():
            artifact.reference.head.bias.mul_(2)
            artifact.model.head.bias.mul_(2)
        return artifact.model


class DrawsFromTheClock(Doubles):
    def apply(self, artifact: Artifact) -> nn.Module:
        with torch.no_grad():
            artifact.model.head.bias.add_(torch.randn(4, generator=torch.Generator().manual_seed(torch.seed() % 2**31)))
        return artifact.model


class NeedsCalibrationSecretly(Doubles):
    needs: ClassVar[tuple[str, ...]] = ("calibration",)
    stage: ClassVar[str] = "later"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ChangesTheReference(), "the pass changed the model it was given; it may change artifact.model only"),
        (DrawsFromTheClock(), "two runs with the same seed differ; draw random numbers from torch's generator"),
        (NeedsCalibrationSecretly(), f"stage 'later' is not one of {ORDER}"),
    ],
)
def test_the_contract_notices(broken: Doubles, message: str) -> None:
    with pytest.raises(AssertionError) as error:
        check_pass(broken, tiny_model(), tiny_task())
    assert str(error.value).splitlines()[0] == message
