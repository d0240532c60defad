"""A pass is checked before anything runs, and what it gives back is verified; the model from before always stands."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import compress
from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.passes.cluster import Cluster
from compress.passes.finetune import Finetune
from compress.passes.int8 import Int8
from compress.passes.prune_channels import PruneChannels
from compress.passes.prune_weights import PruneWeights
from compress.passes.qat import QAT
from compress.passes.reestimate_bn import ReestimateBatchNorm
from compress.pipeline import check, differs
from compress.task import Task
from compress.testing import tiny_model, tiny_task

ORDER = "the order is structure, then sparsify, then recover, then cluster, then integers"


@dataclass(frozen=True)
class Changes:
    """Applies a function to the model, for breaking it in ways of our choice."""

    do: object
    exclude: tuple[str, ...] = ()

    name: ClassVar[str] = "changes"
    stage: ClassVar[str] = "structure"
    needs: ClassVar[tuple[str, ...]] = ()

    def apply(self, artifact: Artifact) -> nn.Module:
        return self.do(artifact.model) or artifact.model


def narrow_body(model: nn.Module) -> None:
    model.body = nn.Conv2d(8, 16, 3, padding=1, bias=False)


def wider_head(model: nn.Module) -> None:
    model.head = nn.Linear(16, 5)


def nan_in_head(model: nn.Module) -> None:
    model.head.bias.data[0] = float("nan")


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (
            narrow_body,
            "changes broke the forward at 'body' (Given groups=1, weight of size [16, 8, 3, 3], expected input[2, 16, 16, 16] to "
            "have 8 channels, but got 16 channels instead); the model from before stands; leave it alone with --pass "
            "'changes:exclude=NAME'",
        ),
        (
            wider_head,
            "changes changed the model's outputs from {'logits': (2, 4)} to {'logits': (2, 5)}; the model from before stands",
        ),
        (nan_in_head, "changes left NaN or infinity in the output 'logits'; the model from before stands"),
        (lambda m: None, "changes changed nothing; the model from before stands (its option allow_noop accepts that)"),
        (lambda m: "oops", "changes returned a str, not a module; the model from before stands"),
    ],
    ids=["broken", "outputs", "nan", "nothing", "no module"],
)
def test_a_broken_result_is_rolled_back_and_named(do: object, message: str) -> None:
    model = tiny_model()
    before = copy.deepcopy(model)
    with pytest.raises(PassError) as error:
        compress.apply(Changes(do), model, tiny_task())
    assert str(error.value) == message
    assert not differs(before, model)


def test_allow_noop_accepts_that_nothing_changed() -> None:
    untouched = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    task = Task((torch.ones(2, 3, 2, 2),), calibration=lambda: [(torch.ones(2, 3, 2, 2),)])
    assert not differs(compress.apply(ReestimateBatchNorm(allow_noop=True), untouched, task), untouched)


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([], "no pass was asked for; say what to do, for example --prune 0.5 --int8"),
        ([Int8(), PruneChannels()], f"prune_channels cannot come after int8; {ORDER}"),
        ([Int8(), Finetune()], f"finetune cannot come after int8; {ORDER}"),
        ([Int8(), Int8()], f"int8 cannot come after int8; {ORDER}"),
        ([Int8(), QAT()], f"qat cannot come after int8; {ORDER}"),
        ([QAT(), Finetune()], f"finetune cannot come after qat; {ORDER}"),
        ([Cluster(), QAT()], "qat cannot come after cluster: it trains, and shared values would part; use int8"),
        ([PruneWeights(), PruneChannels()], f"prune_channels cannot come after prune_weights; {ORDER}"),
        ([PruneWeights(), Finetune(), PruneChannels()], f"prune_channels cannot come after prune_weights; {ORDER}"),
    ],
)
def test_illegal_orders_are_told_before_anything_runs(passes: list, message: str) -> None:
    with pytest.raises(UserError) as error:
        check(passes, tiny_task())
    assert str(error.value) == message


def test_pruning_and_recovery_may_alternate() -> None:
    check([PruneChannels(0.2), Finetune(), PruneChannels(0.2), ReestimateBatchNorm(), Finetune(), Int8()], tiny_task())
    check([PruneChannels(), Finetune(), PruneWeights(0.5), QAT()], tiny_task())
    check([PruneChannels(), Finetune(), Cluster(), Int8()], tiny_task())
    check([PruneChannels(), Finetune(), PruneWeights(0.5), Finetune(), PruneWeights(0.8), Finetune(), Int8()], tiny_task())


@pytest.mark.parametrize(
    ("pass_", "message"),
    [
        (Int8(), "int8 needs calibration data, and the task has none; give Task(calibration=...), or --data with a data set"),
        (
            Finetune(),
            "finetune needs train data, and the task has none; give Task(train=...), or --data with training images; "
            "recovery after --prune can be left out with --no-finetune",
        ),
    ],
)
def test_what_the_task_lacks_is_told_with_how_to_give_it(pass_: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        compress.apply(pass_, tiny_model(), Task(tiny_task().example_inputs))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PruneChannels(0.0), "prune_channels: ratio must be in (0, 1), got 0"),
        (lambda: PruneChannels(float("nan")), "prune_channels: ratio must be in (0, 1), got nan"),
        (lambda: PruneChannels(0.5, round_to=0), "prune_channels: round_to must be at least 1, got 0"),
        (lambda: Finetune(epochs=0), "finetune: epochs must be at least 1, got 0"),
        (lambda: Finetune(lr=-1), "finetune: lr must be in (0, inf), got -1"),
        (lambda: Finetune(alpha=1.5), "finetune: alpha must be in [0, 1], got 1.5"),
        (lambda: ReestimateBatchNorm(batches=0), "reestimate_bn: batches must be at least 1, got 0"),
        (
            lambda: Int8(ranges="max"),
            "int8: ranges must be one of auto, minmax, moving_average, percentile, entropy, mse, got 'max'",
        ),
        (lambda: Int8(weight_bits=9), "int8: weight_bits must be a whole number in [2, 8], got 9"),
        (lambda: Int8(bits={"a*": 1}), "int8: bits of 'a*' must be a whole number in [2, 8], got 1"),
    ],
)
def test_values_out_of_range_are_refused_when_a_pass_is_made(make: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == message


def test_a_model_that_does_not_run_is_the_users_mistake() -> None:
    with pytest.raises(UserError) as error:
        compress.apply(PruneChannels(), tiny_model(), Task((torch.ones(2, 1, 16, 16),)))
    assert str(error.value) == (
        "the model's forward fails on the example inputs of shape (2, 1, 16, 16): RuntimeError: Given groups=1, weight of size "
        "[16, 3, 3, 3], expected input[2, 1, 16, 16] to have 3 channels, but got 1 channels instead"
    )


def test_an_exclude_that_matches_no_layer_is_a_mistake() -> None:
    with pytest.raises(UserError) as error:
        compress.apply(Int8(exclude=("bodi",)), tiny_model(), tiny_task())
    assert str(error.value) == "int8: exclude 'bodi' matches no convolution or linear layer"


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.reshape(4, 12))


def test_a_batch_that_the_forward_fixes_above_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        compress.run(FixedBatch(), Task(example_inputs=(torch.randn(4, 3, 4),)), [Cluster()], out=tmp_path / "run")
    assert str(error.value) == (
        "the forward of FixedBatch takes batches of 4 alone, and a run times single samples; let it take any number, "
        "such as by x.flatten(1) where it calls x.reshape with that number"
    )
