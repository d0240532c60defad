"""What is recorded from layers, and which layers of two networks are taken for each other."""

import pytest
import torch
from torch import nn

from compress.distillation.features import common_stages, recorded
from compress.errors import UserError
from compress.models.cifar_resnet import resnet20, resnet56


def test_outputs_are_recorded_and_nothing_is_left_behind() -> None:
    model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(4, 2)
    with recorded(model, ["0", "1"], "student") as found:
        model(x)
        assert torch.equal(found["0"], model[0](x))
        assert torch.equal(found["1"], model[0](x).relu())
    model(x + 1)
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_when_the_training_fails() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="lost"), recorded(model, ["0"], "student"):
        raise ValueError("lost")
    assert not model[0]._forward_hooks


def test_a_layer_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError) as error, recorded(resnet20(), ["layer1", "laier2"], "teacher"):
        pass
    assert str(error.value).startswith("the teacher has no layer 'laier2'. Did you mean 'layer2")


def test_a_first_layer_is_unhooked_when_a_second_is_not_there() -> None:
    model = resnet20()
    with pytest.raises(UserError), recorded(model, ["layer1", "no"], "student"):
        pass
    assert not model.layer1._forward_hooks


def test_stages_of_one_name_are_paired() -> None:
    assert common_stages(resnet20(), resnet56()) == {f"layer{n}": f"layer{n}" for n in (1, 2, 3)}


def test_one_architecture_is_paired_block_by_block() -> None:
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert common_stages(resnet20(), resnet20()) == {name: name for name in blocks}


def test_wrappers_are_looked_into() -> None:
    def wrapped(model: nn.Module) -> nn.Module:
        outer = nn.Module()
        outer.inner = model
        return outer

    assert list(common_stages(wrapped(resnet20()), wrapped(resnet56()))) == [f"inner.layer{n}" for n in (1, 2, 3)]


def test_flat_networks_of_one_architecture_are_paired_by_convolutions() -> None:
    def flat(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 3), nn.Flatten(), nn.Linear(8, 2))

    assert common_stages(flat(4), flat(8)) == {"0": "0", "2": "2"}


def test_networks_of_other_names_have_nothing_in_common() -> None:
    assert common_stages(nn.Sequential(nn.Linear(1, 1)), resnet20()) == {}
