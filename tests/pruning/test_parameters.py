"""What a cut leaves of parameters, shared weights and modes."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from pruning.networks import Plain, Scaled, marked
from torch import Tensor, nn

import compress
from compress.passes.prune_channels import PruneChannels
from compress.pruning.channels import prune_channels_


def test_frozen_parameters_stay_frozen_and_others_free(residual_net: nn.Module, images: Tensor) -> None:
    frozen = {"stem.weight", "bn2.bias", "head.weight"}
    for name, parameter in residual_net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    prune_channels_(residual_net, (images,), ratio=0.5)
    assert {name for name, parameter in residual_net.named_parameters() if not parameter.requires_grad} == frozen
    assert residual_net.head.in_features == 16


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_numbers_without_a_layer_are_cut_too_and_nothing_is_warned_about(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, x = Scaled(kind).eval(), torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prune_channels_(model, (x,), ratio=0.5) == {"conv": (16, 8)}
    assert model.scale.shape == (8, 1, 1)
    assert model(x).shape == (2, 5)
    assert capfd.readouterr() == ("", "")


def test_a_module_that_is_used_twice_is_cut_once_and_nothing_is_left_behind() -> None:
    shared = nn.Conv2d(32, 32, 3, padding=1)
    model = marked(
        nn.Sequential(nn.Conv2d(3, 32, 3), shared, nn.ReLU(), shared, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    )
    original, x = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    cut = compress.apply(PruneChannels(), model, compress.Task((x,)))
    assert torch.equal(model(x), original(x))
    for network in (model, cut):
        assert [type(p) for p in network.parameters()] == [nn.Parameter] * 6
        assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    assert cut[1] is cut[3]
    assert cut[1].weight.shape == (16, 16, 3, 3)


class TiedTransposed(nn.Module):
    """An autoencoder whose decoder has the encoder's weights, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.b(F.relu(self.a(x))))
        return F.linear(F.relu(F.linear(hidden, self.b.weight.t())), self.a.weight.t())


def test_a_weight_that_is_used_a_second_time_transposed_is_cut() -> None:
    model, x = TiedTransposed().eval(), torch.randn(3, 20)
    assert prune_channels_(model, (x,), ratio=0.5) == {"a": (64, 32), "b": (32, 16)}
    assert model(x).shape == (3, 20)


def test_a_model_that_is_pruned_in_place_stays_in_its_mode_and_can_be_trained() -> None:
    model = Plain().train()
    prune_channels_(model, (torch.randn(2, 3, 8, 8),), ratio=0.5)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
