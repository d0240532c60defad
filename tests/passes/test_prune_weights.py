"""The pass: its contract in every variant, its messages, its notes, and that zeros survive all that may follow."""

import copy
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import compress
from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.passes.finetune import Finetune
from compress.passes.int8 import Int8
from compress.passes.prune_weights import PruneWeights, deflated_bytes
from compress.sparsity.layers import find_layers
from compress.sparsity.masks import sparse_weights
from compress.sparsity.patterns import Blocks, NOfM
from compress.sparsity.prune import Settings, prune_weights_
from compress.store import save_model
from compress.task import Task
from compress.testing import check_pass, tiny_model, tiny_task

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}


def applied(pass_: PruneWeights, model: nn.Module, task: Task) -> Artifact:
    """The pass on a copy of a model, with its notes."""
    artifact = replace(Artifact.start(model, task), model=copy.deepcopy(model))
    pass_.apply(artifact)
    return artifact


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight == 0 for name, weight in sparse_weights(model).items()}


@pytest.mark.parametrize(
    "pass_",
    [
        PruneWeights(0.8, scope="global", dense_ends=False),
        PruneWeights(0.6, method="wanda", exclude=("head",)),
        PruneWeights(method="sparsegpt", pattern="2:4", batches=2),
        PruneWeights(pattern="4x1"),
        PruneWeights(0.7, schedule="cubic", epochs=2),
        PruneWeights(method="wanda", pattern="1:4", schedule="constant", epochs=1, distill=False),
    ],
    ids=lambda pass_: f"{pass_.method} {pass_.pattern} {pass_.schedule}",
)
def test_every_variant_keeps_the_contract(pass_: PruneWeights) -> None:
    result = check_pass(pass_)
    weight = result.body.weight
    assert torch.cat([zero.flatten() for zero in zeros(result).values()]).float().mean() == pytest.approx(pass_.final, abs=0.01)
    assert (result.stem.weight == 0).any() == (not pass_.dense_ends)
    if isinstance(pass_.parsed, NOfM):
        assert ((weight.unflatten(1, (-1, pass_.parsed.m)) != 0).sum(2) == pass_.parsed.n).all()
    if pass_.pattern == "4x1":
        assert (weight.unflatten(0, (-1, 4)) == 0).float().mean(1).unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 0.0}, "prune_weights: sparsity must be in (0, 1), got 0"),
        ({"sparsity": 1.0}, "prune_weights: sparsity must be in (0, 1), got 1"),
        (
            {"pattern": "4:2"},
            "prune_weights: pattern must be unstructured, N:M with N below M (2:4 keeps 2 of every 4 inputs), or outputs x inputs "
            "of a block (4x1), got '4:2'",
        ),
        (
            {"pattern": "1:4", "sparsity": 0.5},
            "prune_weights: pattern 1:4 gives a sparsity of 0.75, and sparsity is 0.5; leave sparsity out",
        ),
        (
            {"pattern": "4x1", "method": "sparsegpt"},
            "prune_weights: the block pattern 4x1 goes with magnitude or wanda, not with sparsegpt",
        ),
        (
            {"scope": "global", "method": "wanda"},
            "prune_weights: scope global goes with magnitude and without N:M, not with method wanda; use scope layer",
        ),
        (
            {"scope": "global", "pattern": "2:4"},
            "prune_weights: scope global goes with magnitude and without N:M, not with pattern 2:4; use scope layer",
        ),
        ({"epochs": 0}, "prune_weights: epochs must be at least 1, got 0"),
        ({"batches": 0}, "prune_weights: batches must be at least 1, got 0"),
        ({"lr": 0.0}, "prune_weights: lr must be in (0, inf), got 0"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        PruneWeights(**options)
    assert str(error.value) == message


def test_the_sparsity_of_a_pattern_need_not_be_said() -> None:
    assert PruneWeights().final == 0.5
    assert PruneWeights(pattern="1:4").final == 0.75
    assert PruneWeights(0.667, pattern="1:3").final == pytest.approx(2 / 3)


def test_data_are_needed_where_they_are_looked_at() -> None:
    assert PruneWeights().needs == ()
    assert PruneWeights(method="wanda").needs == ("calibration",)
    assert PruneWeights(schedule="linear").needs == ("train",)
    assert PruneWeights(method="sparsegpt", schedule="linear").needs == ("calibration", "train")
    with pytest.raises(UserError) as error:
        compress.apply(PruneWeights(method="wanda"), tiny_model(), Task(tiny_task().example_inputs))
    assert str(error.value) == (
        "prune_weights needs calibration data, and the task has none; give Task(calibration=...), or --data with a data set"
    )


@pytest.mark.parametrize(
    ("pass_", "message"),
    [
        (
            PruneWeights(exclude=("bodi",)),
            "prune_weights: exclude 'bodi' matches no convolution or linear layer",
        ),
        (
            PruneWeights(exclude=("body",)),
            "prune_weights found no layer to prune; the model from before stands; dense stay stem (the first convolution); body "
            "(excluded); head (the last layer)",
        ),
        (
            PruneWeights(pattern="1:3", dense_ends=False, exclude=("stem",)),
            "prune_weights found no layer to prune; the model from before stands; dense stay stem (excluded); body (16 inputs are "
            "no multiple of 3); head (16 inputs are no multiple of 3)",
        ),
        (
            PruneWeights(0.9999),
            "prune_weights: nothing would be left of 'body'; lower the sparsity, or exclude the layer",
        ),
        (
            PruneWeights(1e-6),
            "prune_weights changed nothing; the model from before stands (its option allow_noop accepts that)",
        ),
    ],
)
def test_what_cannot_be_pruned_is_told(pass_: PruneWeights, message: str) -> None:
    with pytest.raises((UserError, PassError)) as error:
        compress.apply(pass_, tiny_model(), tiny_task())
    assert str(error.value) == message


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_calibration_data_without_a_batch_are_told(method: str) -> None:
    task = replace(tiny_task(), calibration=lambda: iter(()))
    with pytest.raises(UserError) as error:
        compress.apply(PruneWeights(method=method), tiny_model(), task)
    assert str(error.value) == "the calibration data have no batch, so that no layer's inputs were seen"
    model = tiny_model()
    with pytest.raises(UserError) as error:
        prune_weights_(model, find_layers(model)[0], 0.5, Settings(method, Blocks()))
    assert str(error.value) == f"method {method} looks at the layers' inputs; give batches"


def test_a_network_without_a_layer_to_prune_is_told_and_may_be_accepted() -> None:
    norm, task = nn.BatchNorm2d(3).eval(), Task((torch.ones(2, 3, 4, 4),))
    with pytest.raises(PassError) as error:
        compress.apply(PruneWeights(), norm, task)
    assert str(error.value) == "prune_weights found no layer to prune; the model from before stands"
    assert torch.equal(compress.apply(PruneWeights(allow_noop=True), norm, task).weight, norm.weight)


class Attention(nn.Module):
    """Attention reads its output layer's weight, but never calls the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_a_layer_that_is_never_called_has_no_inputs_to_go_by() -> None:
    model, x = Attention().train(), torch.randn(4, 5, 8)
    task = Task((x,), calibration=lambda: [(x,)])
    result = applied(PruneWeights(method="wanda"), model, task)
    assert "dense: head (the last layer); attention.out_proj (its inputs cannot be seen)" in result.notes
    assert set(sparse_weights(result.model)) == {"inner.weight"}
    by_magnitude = compress.apply(PruneWeights(), model, task)
    assert set(sparse_weights(by_magnitude)) == {"inner.weight", "attention.out_proj.weight"}


def test_the_notes_say_how_sparse_and_what_that_saves() -> None:
    model = tiny_model()
    artifact = applied(PruneWeights(0.75, dense_ends=False, exclude=("stem",)), model, tiny_task())
    # body: 16 x 16 x 9, head: 16 x 4, of 2304 + 64 + stem 432 + head's bias 4 + norms 64 parameters; norms' 32 biases are zero
    # or not as training left them.
    body, head = 2304 * 3 // 4, 64 * 3 // 4
    all_zeros = sum(int((p == 0).sum()) for p in artifact.model.parameters())
    assert artifact.notes[:3] == [
        f"{body + head} of 2368 weights in 2 layers are zero (0.750), and {all_zeros / 2868:.3f} of all parameters",
        "sparsity by layer: body 0.750, head 0.750",
        "dense: stem (excluded)",
    ]

    def deflated(network: nn.Module) -> float:
        return len(zlib.compress(b"".join(value.numpy().tobytes() for value in network.state_dict().values()))) / 1e6

    assert artifact.notes[3:] == [
        f"deflated (zlib), the weights take {deflated(artifact.model):.2f} MB, before {deflated(model):.2f} MB; ONNX Runtime on "
        "the CPU computes with zeros as with any number: they save no time there"
    ]
    assert deflated(artifact.model) < 0.6 * deflated(model)


def test_deflated_bytes_are_those_of_one_stream_with_shared_weights_once() -> None:
    model = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Linear(300, 300))
    plain = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    assert deflated_bytes(model) == len(zlib.compress(plain))
    model[2].weight = model[0].weight
    assert deflated_bytes(model) == pytest.approx(len(zlib.compress(plain)) / 2, rel=0.02)


def test_a_schedule_prunes_while_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def spying(student: Tensor, teacher: Tensor, **options: float) -> Tensor:
        seen.append(round(float((artifact.model.body.weight == 0).float().mean()), 3))
        return (student - teacher).square().mean()

    monkeypatch.setattr("compress.losses.soft_targets", spying)
    artifact = replace(Artifact.start(tiny_model(), tiny_task()), model=tiny_model())
    PruneWeights(0.8, schedule="cubic", epochs=2).apply(artifact)
    # 8 steps, of which 6 prune: k / 6 of the way at the k-th.
    wanted = [0.8 - 0.8 * (1 - k / 6) ** 3 for k in (1, 2, 3, 4, 5, 6, 6, 6)]
    assert seen == pytest.approx(wanted, abs=1e-3)
    assert (artifact.model.body.weight == 0).float().mean() == pytest.approx(0.8, abs=1e-3)
    assert artifact.notes[0].startswith("8 steps, 128 samples in ")
    assert artifact.notes[0].endswith(", distilled from the original")
    assert artifact.notes[1] == "pruned 6 times while training, with the cubic schedule, to 0.8"


def test_training_afterwards_keeps_the_zeros() -> None:
    sparse = compress.apply(PruneWeights(0.7, dense_ends=False), tiny_model(), tiny_task())
    tuned = compress.apply(Finetune(epochs=3, lr=0.1, weight_decay=0.05), sparse, tiny_task())
    before, after = zeros(sparse), zeros(tuned)
    assert set(before) == {"stem.weight", "body.weight", "head.weight"}
    for name in before:
        assert torch.equal(before[name], after[name])
        moved = tuned.get_parameter(name) != sparse.get_parameter(name)
        assert torch.equal(moved, ~before[name])


def test_zeros_have_no_sign() -> None:
    sparse = compress.apply(PruneWeights(0.7), tiny_model(), tiny_task())
    tuned = compress.apply(Finetune(epochs=1, lr=0.1), sparse, tiny_task())
    for weight in (sparse.body.weight, tuned.body.weight):
        assert not weight[weight == 0].signbit().any()


def test_the_ends_are_a_convolution_and_whatever_is_last() -> None:
    images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))
    words = nn.Sequential(Conv1D(8, 4), nn.Linear(8, 8), Conv1D(2, 8))
    chosen = {
        "images": PruneWeights().chosen(images, (torch.ones(1, 3, 8, 8),)),
        "words": PruneWeights().chosen(words, (torch.ones(1, 5, 4),)),
    }
    assert {kind: [layer.name for layer in layers] for kind, (layers, _) in chosen.items()} == {
        "images": ["1"],
        "words": ["0", "1"],
    }
    assert chosen["images"][1] == {"0": "the first convolution", "2": "the last layer"}
    assert chosen["words"][1] == {"2": "the last layer"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> compress.Run:
    folder = tmp_path_factory.mktemp("run") / "out"
    steps = [PruneWeights(pattern="2:4"), Finetune(epochs=1), Int8(weight_bits=8)]
    return compress.run(tiny_model(), tiny_task(), steps, out=folder, timing=QUICK)


def test_integers_keep_every_zero(finished: compress.Run) -> None:
    assert finished.folder is not None
    stored = {
        array.shape: array
        for array in map(numpy_helper.to_array, onnx.load(finished.folder / "model.onnx").graph.initializer)
        if array.dtype == np.int8 and array.ndim == 4
    }
    body = stored[16, 16, 3, 3].reshape(16, 4, 4, 9)
    assert ((body == 0).sum(2) >= 2).all()
    # Whatever else rounds to zero, what was pruned is zero, and nothing was pruned elsewhere.
    pruned = finished.model.get_parameter("body.weight").detach().numpy() == 0
    assert pruned.mean() == 0.5
    assert (stored[16, 16, 3, 3][pruned] == 0).all()


def test_the_manifest_says_which_weights_are_sparse(finished: compress.Run) -> None:
    assert finished.folder is not None
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    assert manifest["structure"] == {"body": {"sparse_weight": True}}


def test_a_loaded_model_trained_again_keeps_the_zeros(tmp_path: Path) -> None:
    sparse = compress.apply(PruneWeights(0.6), tiny_model(), tiny_task())
    save_model(tmp_path, sparse, tiny_model(), {"origin": {"kind": "module"}})
    loaded = compress.load(tmp_path, model=tiny_model())
    before = zeros(loaded)
    assert before["body.weight"].float().mean() == pytest.approx(0.6, abs=0.01)
    tuned = compress.apply(Finetune(epochs=2, lr=0.1), loaded, tiny_task())
    assert torch.equal(zeros(tuned)["body.weight"], before["body.weight"])
    assert torch.equal(tuned.body.weight != loaded.body.weight, ~before["body.weight"])


def test_pruning_again_goes_on_from_the_zeros_that_are_there() -> None:
    first = compress.apply(PruneWeights(0.4), tiny_model(), tiny_task())
    second = compress.apply(PruneWeights(0.7), first, tiny_task())
    assert (second.body.weight[first.body.weight == 0] == 0).all()
    assert (second.body.weight == 0).float().mean() == pytest.approx(0.7, abs=1e-3)
