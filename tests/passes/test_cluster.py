"""The pass `cluster`: few values in each layer, zeros kept, and a note whose bytes were written."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import pipeline
from compress.artifact import Artifact
from compress.clustering.codebook import decode, encode
from compress.errors import PassError, UserError
from compress.passes.cluster import Cluster, stored, weights_of
from compress.passes.int8 import Int8
from compress.task import Task
from compress.testing import architectures, check_pass, tiny_model, tiny_task


def clustered(model: nn.Module, *inputs: Tensor, **options: Any) -> tuple[nn.Module, list[str]]:
    """The model after the pass, and its notes."""
    artifact = Artifact.start(copy.deepcopy(model), Task(inputs or (torch.randn(2, 3, 16, 16),)))
    return Cluster(**options).apply(artifact), artifact.notes


def test_the_contract_is_kept_with_options() -> None:
    check_pass(Cluster(bits=4, init="random", exclude=("stem",)))


def test_each_layer_has_few_values_and_nothing_else_changes() -> None:
    model = tiny_model()
    result, _ = clustered(model, bits=3, exclude=("st*",))
    for name, tensor in model.state_dict().items():
        now = result.state_dict()[name]
        if name in ("body.weight", "head.weight"):
            assert len(now.unique()) == 8
            assert (now - tensor).abs().max() < (tensor.max() - tensor.min()) / 7
        else:
            assert torch.equal(now, tensor), name


def test_zeros_stay_and_no_others_come(residual_net: nn.Module) -> None:
    with torch.no_grad():
        residual_net.conv2.weight[torch.rand_like(residual_net.conv2.weight) < 0.7] = 0
    result, _ = clustered(residual_net, bits=2)
    assert torch.equal(result.conv2.weight == 0, residual_net.conv2.weight == 0)
    assert len(result.conv2.weight.unique()) == 4


class Two(nn.Module):
    """65536 weights and 512."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(256, 256), nn.Linear(256, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_the_note_is_computed_and_written() -> None:
    model = Two()
    around = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 3.0]).repeat(8192)[torch.randperm(65536)].view(256, 256)
    with torch.no_grad():  # half of them zero, a quarter near 1, an eighth near 2 and near 3 each
        model.first.weight.copy_(torch.where(around == 0, 0.0, around + torch.rand(256, 256) * 0.1))
    result, notes = clustered(model, torch.randn(2, 256), bits=2, exclude=("second",))
    before, after = len(encode(model.state_dict())), len(encode(result.state_dict(), ["first.weight"]))
    assert notes == [
        # 1/2 * 1 bit + 1/4 * 2 bits + 2 * 1/8 * 3 bits; 1.75 bits * 65536 are 14336 bytes
        "65536 weights in 1 layers, at most 4 different ones in each; the entropy of their indices is 1.75 bits a weight, 0.014 MB",
        f"written with codebooks and indices and deflated, the model takes {after / 1e6:.3f} MB; with its float weights from "
        f"before, deflated, {before / 1e6:.3f} MB; the ONNX file holds the shared values as plain floats: its size and its "
        "latency do not change",
        "excluded: second",
    ]
    assert 14336 < after - len(encode({name: x for name, x in result.state_dict().items() if name != "first.weight"})) < 17000
    for name, tensor in decode(encode(result.state_dict(), ["first.weight"])).items():
        assert torch.equal(tensor, result.state_dict()[name])


def test_a_tied_weight_is_clustered_once_and_stays_tied() -> None:
    model, inputs = architectures.build("GPT-2 (tied head)")
    result, notes = clustered(model, *inputs, bits=3)
    assert result.lm_head.weight is result.transformer.wte.weight
    assert len(result.lm_head.weight.unique()) == 8
    assert len(result.transformer.h[0].attn.c_attn.weight.unique()) == 8  # a linear layer, transposed
    layers, weights = weights_of(model), sum(weight.numel() for weight in weights_of(model).values())
    assert notes[0].startswith(f"{weights} weights in {len(layers)} layers, ")
    assert "lm_head.weight" not in stored(result)


class Shared(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x)))


def test_a_weight_of_an_excluded_layer_stays_where_another_layer_has_it_too() -> None:
    model = Shared()
    result, notes = clustered(model, torch.randn(2, 8), bits=1, exclude=("second",))
    assert torch.equal(result.first.weight, model.first.weight)
    assert len(result.third.weight.unique()) == 2
    assert notes[-1] == "excluded: second"
    result, notes = clustered(model, torch.randn(2, 8), bits=1)
    assert notes[0].startswith("128 weights in 3 layers, ")
    assert result.second.weight is result.first.weight


def test_transposed_convolutions_and_all_dimensions_are_layers() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 3, 1), nn.Conv3d(2, 3, 1), nn.ConvTranspose2d(2, 3, 1), nn.BatchNorm2d(3), nn.Embedding(3, 2), nn.LSTM(2, 2)
    )
    assert list(weights_of(model)) == ["0", "1", "2"]
    assert list(weights_of(nn.Linear(2, 3))) == [""]


def test_random_starts_follow_the_seed() -> None:
    model, task = tiny_model(), tiny_task()
    runs = [pipeline.apply(Cluster(bits=4, init="random"), model, task, seed=seed) for seed in (1, 1, 2)]
    assert not pipeline.differs(runs[0], runs[1])
    assert pipeline.differs(runs[0], runs[2])


def test_integers_may_follow() -> None:
    model, task = tiny_model(), tiny_task()
    pipeline.check([Cluster(), Int8()], task)
    shared = pipeline.apply(Cluster(bits=6), model, task)
    pipeline.apply(Int8(), shared, task)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cluster(bits=0), "cluster: bits must be in [1, 8], got 0"),
        (lambda: Cluster(bits=9), "cluster: bits must be in [1, 8], got 9"),
        (lambda: Cluster(init="evenly"), "cluster: init must be one of linear, density, random, got 'evenly'"),
        (
            lambda: clustered(tiny_model(), exclude=("bod*", "layer4")),
            "cluster: exclude 'layer4' matches no convolution or linear layer",
        ),
    ],
)
def test_a_wrong_option_is_told(make: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == message


def test_nothing_to_do_is_told() -> None:
    model, inputs = nn.Linear(2, 2), (torch.randn(2, 2),)
    with pytest.raises(PassError) as error:
        clustered(model, *inputs, bits=2)
    assert str(error.value) == (
        "cluster found no layer to cluster: none has more than 4 different weights; the model from before stands"
    )
    with pytest.raises(PassError) as error:
        clustered(nn.Sequential(nn.PReLU()), *inputs)
    assert str(error.value) == "cluster found no layer to cluster: there is none; the model from before stands"
    result, _ = clustered(model, *inputs, bits=2, allow_noop=True)
    assert torch.equal(result.weight, model.weight)
