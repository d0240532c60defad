"""The pass `qat`: better than int8 at low bits, never worse by validation, and the trained network is the exported one."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import compress
from compress.artifact import Artifact
from compress.errors import UserError
from compress.outputs import predictor
from compress.passes.finetune import Finetune
from compress.passes.int8 import Int8
from compress.passes.prune_channels import PruneChannels
from compress.passes.prune_weights import PruneWeights
from compress.passes.qat import QAT
from compress.sparsity.masks import sparse_weights
from compress.task import Predict, Task
from compress.testing import check_pass, tiny_model, tiny_task

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}


@pytest.fixture(scope="module")
def learned() -> nn.Module:
    """The tiny network after training: it tells the four places of the bright quadrant apart."""
    torch.manual_seed(0)
    return compress.apply(Finetune(epochs=4, lr=0.05, distill=False), tiny_model(), tiny_task())


def after(pass_: Any, model: nn.Module, task: Task | None = None) -> tuple[nn.Module, list[str]]:
    """The model after a pass, and its notes."""
    artifact = Artifact.start(model, task or tiny_task())
    return pass_.apply(replace(artifact, model=copy.deepcopy(artifact.model))), artifact.notes


def difference(model: nn.Module, reference: nn.Module) -> float:
    """Mean squared difference of the outputs, on the training images."""
    pairs = [(predictor(model)(x), predictor(reference)(x)) for x, _ in tiny_task().train()]
    return float(np.mean([np.square(found - wanted).mean() for found, wanted in pairs]))


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("learn_scales", [True, False])
def test_it_comes_nearer_to_the_original_than_int8(learned: nn.Module, bits: int, learn_scales: bool) -> None:
    before, _ = after(Int8(weight_bits=bits, bias_correction=False), learned)
    trained, notes = after(QAT(weight_bits=bits, epochs=8, learn_scales=learn_scales), learned)
    assert difference(trained, learned) < 0.7 * difference(before, learned)
    assert notes[0] == "ranges from 64 calibration samples"
    assert notes[1].startswith("32 steps, 512 samples in float32, mean loss of the first epoch ")
    assert notes[1].endswith(", distilled from the original")
    assert " is kept: it scores " in notes[2]


def test_the_best_epoch_is_kept_and_named(learned: nn.Module) -> None:
    scores = iter([0.5, 0.9, 0.7, 0.6])  # of three epochs, then of int8
    seen: list[np.ndarray] = []

    def validate(predict: Predict) -> float:
        seen.append(predict(x))
        return next(scores)

    x = torch.randn(4, 3, 16, 16)
    trained, notes = after(QAT(epochs=3), learned, replace(tiny_task(), validate=validate))
    assert np.array_equal(predictor(trained)(x), seen[1])
    assert notes[2] == "epoch 2 of 3 is kept: it scores 90.00 % on the validation data, int8 without training 60.00 %"


def test_training_that_hurts_is_undone_and_told(learned: nn.Module) -> None:
    x = torch.randn(64, 3, 16, 16)
    wanted = predictor(learned)(x).argmax(1)
    task = replace(tiny_task(), validate=lambda predict: float((predict(x).argmax(1) == wanted).mean()))
    before, _ = after(Int8(), learned)
    result, notes = after(QAT(epochs=1, lr=3.0, clip_norm=1e3, average=0), learned, task)
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in result.state_dict().items())
    untrained = (predictor(before)(x).argmax(1) == wanted).mean()
    assert notes[2].startswith("nothing of the training is kept: epoch 1 of 1, the best, scores ")
    assert notes[2].endswith(f" % on the validation data, int8 without training {100 * untrained:.2f} %")


def test_an_interrupted_training_goes_on_from_the_network_it_started_with(
    learned: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def trained(folder: Path, kill_at: int | None = None) -> tuple[nn.Module, list[str]]:
        folder.mkdir(exist_ok=True)
        calls: list[int] = []

        def validate(predict: Predict) -> float:
            calls.append(1)
            if len(calls) == kill_at:
                raise KilledError
            return float(predict(torch.ones(1, 3, 16, 16))[0, 0])

        torch.manual_seed(0)
        artifact = replace(Artifact.start(learned, replace(tiny_task(), validate=validate)), progress=folder)
        model = QAT(epochs=3, weight_bits=4).apply(replace(artifact, model=copy.deepcopy(artifact.model)))
        return model, artifact.notes

    whole, notes = trained(tmp_path / "whole")
    with pytest.raises(KilledError):
        trained(tmp_path / "killed", kill_at=2)

    def again(self: Int8, artifact: Artifact) -> nn.Module:
        raise AssertionError("calibrated a second time")

    monkeypatch.setattr(Int8, "apply", again)
    resumed, said = trained(tmp_path / "killed")
    assert said == [note.replace(", mean loss", ", resumed behind epoch 1, mean loss") for note in notes]
    state = whole.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.state_dict().items())


def test_training_that_ends_in_no_number_is_undone_and_told(learned: nn.Module) -> None:
    before, _ = after(Int8(), learned)
    task = replace(tiny_task(), train=lambda: [(images * torch.nan, labels) for images, labels in tiny_task().train()])
    result, notes = after(QAT(epochs=2), learned, task)
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in result.state_dict().items())
    assert notes[1:] == [
        "nothing of the training is kept: the loss became nan in epoch 1 of 2, at step 1, batch 1; try a lower lr than 0.01, or retry"
    ]


def test_without_validation_data_the_last_epoch_is_kept_and_that_is_told(learned: nn.Module) -> None:
    _, notes = after(QAT(epochs=2), learned, replace(tiny_task(), validate=None))
    assert notes[2:] == ["no validation data: the last epoch is kept, unseen whether it is better than before training"]


def test_equal_scores_are_no_reason_to_drop_the_training(learned: nn.Module) -> None:
    before, _ = after(Int8(), learned)
    trained, notes = after(QAT(epochs=1), learned, replace(tiny_task(), validate=lambda predict: 0.5))
    assert notes[2] == "epoch 1 of 1 is kept: it scores 50.00 % on the validation data, int8 without training 50.00 %"
    assert not torch.equal(trained.head.weight, before.head.weight)


def test_shape_and_zeros_of_a_pruned_network_survive(tmp_path: Path, learned: nn.Module) -> None:
    passes = [PruneChannels(0.5, round_to=4), PruneWeights(0.5), QAT(epochs=2, weight_bits=4)]
    run = compress.run(learned, tiny_task(), passes, out=tmp_path / "out", timing=QUICK)
    model = run.model
    assert isinstance(model, fx.GraphModule)
    assert model.body.weight.shape == (8, 8, 3, 3)
    assert run.report["stages"][-1]["name"] == "qat"
    marked = compress.apply(PruneWeights(0.5), compress.apply(PruneChannels(0.5, round_to=4), learned, tiny_task()), tiny_task())
    zeros = {name: weight == 0 for name, weight in sparse_weights(marked).items()}
    assert 0.4 < zeros["body.weight"].float().mean() < 0.6
    for name, mask in zeros.items():
        weight, quantizer = model.get_parameter(name), getattr(model.quantizers, name.replace(".", "_"))
        assert torch.equal(weight == 0, mask), name
        assert (quantizer(weight)[mask] == 0).all(), name
    assert run.report["parity"]["top1_agreement"] >= 0.99
    loaded = compress.load(tmp_path / "out", model=learned)
    x = torch.randn(5, 3, 16, 16)
    assert np.array_equal(predictor(loaded)(x), predictor(model)(x))


def test_the_contract_is_kept_with_options() -> None:
    check_pass(QAT(epochs=1, weight_bits=4, bits={"head": 8}, distill=False, average=0, freeze=0.5, learn_scales=False))


class Fixed(nn.Module):
    """Takes batches of two, and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(2, 4))


def test_a_fixed_batch_is_refused() -> None:
    x = torch.randn(2, 4)
    task = Task((x,), calibration=lambda: [(x,)], train=lambda: [(x, torch.tensor([0, 1]))])
    with pytest.raises(UserError) as error:
        compress.apply(QAT(), Fixed(), task)
    assert str(error.value) == "qat cannot train a network whose forward fixes the batch; use int8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "qat: epochs must be at least 1, got 0"),
        ({"lr": 0.0}, "qat: lr must be in (0, inf), got 0"),
        ({"freeze": 1.5}, "qat: freeze must be in [0, 1], got 1.5"),
        ({"average": 1.0}, "qat: average must be in [0, 1), got 1"),
        ({"clip_norm": 0.0}, "qat: clip_norm must be in (0, inf), got 0"),
        ({"alpha": 2.0}, "qat: alpha must be in [0, 1], got 2"),
        ({"weight_bits": 9}, "qat: weight_bits must be a whole number in [2, 8], got 9"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        QAT(**options)
    assert str(error.value) == message
