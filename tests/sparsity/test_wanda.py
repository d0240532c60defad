"""Wanda's scores by hand, where magnitude would choose otherwise, and its norms against all inputs held at once."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import UserError
from compress.sparsity.inputs import called, input_norms, input_products, watch_inputs
from compress.sparsity.layers import Layer, find_layers
from compress.sparsity.magnitude import magnitude_mask
from compress.sparsity.patterns import Blocks, NOfM
from compress.sparsity.wanda import wanda_mask, wanda_scores


def test_a_small_weight_on_a_loud_input_stays() -> None:
    matrix, norms = torch.tensor([[4.0, -1.0, 3.0, 2.0], [1.0, 1.0, -9.0, 8.0]]), torch.tensor([[1.0, 10.0, 0.5, 3.0]])
    assert wanda_scores(matrix, norms).tolist() == [[4.0, 10.0, 1.5, 6.0], [1.0, 10.0, 4.5, 24.0]]
    assert wanda_mask(matrix, norms, Blocks(), 0.5).tolist() == [[False, True, False, True]] * 2
    assert magnitude_mask(matrix, Blocks(), 0.5).tolist() == [[True, False, True, False], [False, False, True, True]]
    assert wanda_mask(matrix, norms, NOfM(1, 2), 0.5).tolist() == [[False, True, False, True]] * 2


def test_weights_are_compared_within_an_output() -> None:
    matrix = torch.tensor([[1.0, 2.0], [100.0, 200.0]])
    assert wanda_mask(matrix, torch.ones(1, 2), Blocks(), 0.5).tolist() == [[False, True], [False, True]]


def test_outputs_meet_the_norms_of_their_group() -> None:
    matrix, norms = torch.ones(4, 2), torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    assert wanda_scores(matrix, norms).tolist() == [[1, 2], [1, 2], [4, 3], [4, 3]]


class Net(nn.Module):
    """A convolution in groups, one called twice, and one never called; dropout and batch norm show the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)
        self.head = nn.Linear(4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.twice = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.norm(self.first(x)), 0.5, self.training)
        return self.head(self.twice(self.twice(x)).mean((2, 3)))


def test_norms_are_over_all_samples_positions_and_calls() -> None:
    model, batches = Net().eval(), [(torch.randn(3, 4, 5, 5),), (torch.randn(2, 4, 5, 5),)]
    layers, _ = find_layers(model)
    norms = input_norms(model, layers, batches)
    assert set(norms) == {"first", "twice", "head"}
    x = torch.cat([batch for (batch,) in batches])
    middle = model.norm(model.first(x))
    again = model.twice(middle)
    assert torch.allclose(norms["twice"][0], torch.cat([middle, again]).square().sum((0, 2, 3)).sqrt(), atol=1e-4)
    assert torch.allclose(norms["head"][0], model.twice(again).mean((2, 3)).square().sum(0).sqrt(), atol=1e-5)
    windows = F.unfold(x, 3, padding=1).view(5, 2, 2, 9, 25)  # batch, group, channel, position, pixel
    assert torch.allclose(norms["first"], windows.square().sum((0, 4)).sqrt().transpose(1, 2).flatten(1), atol=1e-4)


def test_watching_leaves_the_model_as_it_was() -> None:
    model = Net().train()
    model.twice.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers, _ = find_layers(model)
    watch_inputs(model, layers, [(torch.randn(3, 4, 5, 5),)], lambda layer, x: None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, model.twice.training, model.norm.training) == (True, False, True)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_no_numbers_are_told(bad: float) -> None:
    model, x = Net(), torch.randn(2, 4, 5, 5)
    x[1, 2, 3, 3] = bad
    layers, _ = find_layers(model)
    first = next(layer for layer in layers if layer.name == "first")
    for look in (lambda: input_norms(model, [first], [(x,)]), lambda: input_products(model, first, [(x,)])):
        with pytest.raises(UserError) as error:
            look()
        assert str(error.value) == "calibration met a NaN or an infinity in the input of 'first'; check the model and its input"


def test_layers_in_the_order_of_their_calls() -> None:
    model = Net()
    layers, _ = find_layers(model)
    assert [layer.name for layer in layers] == ["idle", "head", "first", "twice"]
    assert [layer.name for layer in called(model, layers, (torch.randn(1, 4, 5, 5),))] == ["first", "twice", "head"]


def test_a_single_image_without_a_batch_axis() -> None:
    conv, image = nn.Conv2d(4, 2, 3), torch.randn(4, 5, 5)
    norms = input_norms(conv, [Layer("conv", conv)], [(image,)])["conv"]
    assert torch.allclose(norms, input_norms(conv, [Layer("conv", conv)], [(image[None],)])["conv"])
