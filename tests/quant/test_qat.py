"""A network prepared, trained by a plain loop, and finished: the same numbers, in integers, in the file as well."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from compress.errors import UserError
from compress.export import export_onnx, signature
from compress.measure import integer_coverage, open_onnx
from compress.quant import qat
from compress.quant.fake_quantize import ActivationQuantizer, WeightQuantizer
from compress.quant.learned import LearnedQuantizer
from compress.quant.ptq import calibrate, quantizers_in
from compress.quant.ptq import prepare as prepare_graph
from compress.quant.scheme import Scheme
from compress.sparsity.masks import keep_zeros, mark_sparse_


def prepared(model: nn.Module, x: Tensor, bits: int = 8, **options: object) -> fx.GraphModule:
    return qat.prepare(model, (x,), calibration=lambda: [(x,)], scheme=Scheme(weight_bits=bits), **options)


def train(net: nn.Module, x: Tensor, steps: int = 10, lr: float = 0.05) -> list[float]:
    """Towards the class 3, by a plain loop; the losses."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    target, losses = torch.full((len(x),), 3), []
    for _ in range(steps):
        loss = F.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def outputs(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


def test_before_training_it_is_the_network_after_calibration(residual_net: nn.Module, images: Tensor) -> None:
    ordinary, _ = prepare_graph(residual_net, (images,), Scheme(weight_bits=4))
    calibrate(ordinary, lambda: [(images,)], "mse")
    net = prepared(residual_net, images, 4)
    assert torch.equal(outputs(net, images), outputs(ordinary, images))
    finished = qat.finish(net)
    assert finished.state_dict().keys() == ordinary.state_dict().keys()
    for name, tensor in finished.state_dict().items():  # the largest weights were clipped to themselves, but for a last bit
        assert torch.allclose(tensor, ordinary.state_dict()[name], rtol=1e-6, atol=0), name
    assert torch.equal(outputs(finished, images), outputs(ordinary, images))


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("learn_scales", [True, False])
def test_what_trained_is_what_is_finished(residual_net: nn.Module, images: Tensor, bits: int, learn_scales: bool) -> None:
    net = prepared(residual_net, images, bits, learn_scales=learn_scales)
    start = {path: m.scale.clone() for path, m in net.named_modules() if isinstance(m, LearnedQuantizer)}
    losses = train(net, images)
    assert losses[-1] < 0.7 * losses[0]
    moved = {path for path, scale in start.items() if not torch.equal(scale, net.get_submodule(path).scale)}
    assert moved == (set(start) if learn_scales else set())
    trained = outputs(net.eval(), images)
    finished = qat.finish(net)
    assert torch.equal(outputs(finished, images), trained)
    assert not any(isinstance(module, LearnedQuantizer) for module in finished.modules())
    assert set(quantizers_in(finished)) == set(start)
    largest = 2 ** (bits - 1) - 1
    for path in quantizers_in(finished):
        quantizer = finished.get_submodule(path)
        if isinstance(quantizer, WeightQuantizer):
            name = path.rpartition(".")[2].replace("_weight", ".weight").replace("shortcut_0", "shortcut.0")
            weight = finished.get_parameter(name).detach()
            codes = (weight.flatten(1) / quantizer.scale[:, None]).abs().amax(1)
            assert codes.max() <= largest * 1.0001, path


def test_the_file_says_what_the_trained_network_says(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    net = prepared(residual_net, images, 4)
    train(net, images)
    many = torch.randn(200, 3, 8, 8)
    expected = outputs(net.eval(), many).numpy()
    export_onnx(qat.finish(net), (images,), tmp_path / "net.onnx", signature(residual_net, (images,)))
    found = open_onnx(tmp_path / "net.onnx").predict(many)
    assert np.mean(found.argmax(1) == expected.argmax(1)) >= 0.99
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)
    assert integer_coverage(tmp_path / "net.onnx").counts["conv"] == (4, 4)


def test_the_model_that_was_given_is_not_changed(residual_net: nn.Module, images: Tensor) -> None:
    residual_net.train()
    before = copy.deepcopy(residual_net.state_dict())
    net = prepared(residual_net, images)
    train(net, images)
    qat.finish(net)
    assert residual_net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual_net.state_dict().items())


def test_zeros_of_sparse_layers_are_held_and_their_codes_stay_zero(residual_net: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        for layer in (residual_net.conv1, residual_net.conv2):
            layer.weight[torch.rand_like(layer.weight) < 0.6] = 0
    mark_sparse_(residual_net.conv1)
    zeros = residual_net.conv1.weight == 0
    net = prepared(residual_net, images, 4)
    with keep_zeros(net):
        train(net, images)
    finished = qat.finish(net)
    assert torch.equal(finished.conv1.weight == 0, zeros)
    assert (finished.quantizers.conv1_weight(finished.conv1.weight)[zeros] == 0).all()
    assert (finished.conv2.weight == 0).float().mean() < 0.3  # not marked; behind dead channels no weight moves


def test_frozen_ranges_stand_still_while_weights_train(residual_net: nn.Module, images: Tensor) -> None:
    net = prepared(residual_net, images, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()

    step()
    qat.freeze_ranges_(net)
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    step()
    still = {name for name, parameter in net.named_parameters() if torch.equal(parameter, before[name])}
    assert still == {f"{path}.scale" for path, m in net.named_modules() if isinstance(m, LearnedQuantizer)}


def test_a_dead_channels_bias_does_not_overflow_after_training(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    net = prepared(residual_net, images)
    train(net, images, steps=2)
    with torch.no_grad():  # as if training had taken a channel's weights, and its scale with them, to nothing
        net.quantizers.conv1_weight.scale[5] = 0
        net.conv1.weight[5] = 0
        net.conv1.bias[5] = 0.7
    trained = outputs(net.eval(), images)
    finished = qat.finish(net)
    assert outputs(finished, images).numpy() == pytest.approx(trained.numpy(), abs=1e-5)
    export_onnx(finished, (images,), tmp_path / "net.onnx", signature(residual_net, (images,)))
    assert open_onnx(tmp_path / "net.onnx").predict(images) == pytest.approx(
        trained.numpy(), abs=0.05 * float(np.ptp(trained.numpy()))
    )


def test_batches_of_any_size_are_trained_and_activations_have_256_codes(residual_net: nn.Module, images: Tensor) -> None:
    net = prepared(residual_net, images[:1])
    assert net(images[:3]).shape == (3, 5)
    assert len(net.quantizers.x(torch.linspace(-9, 9, 5000)).unique()) == 256
    assert isinstance(qat.finish(net).quantizers.x, ActivationQuantizer)


class Positions(nn.Module):
    """Counts positions out on the device of its input, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.places(torch.arange(x.shape[1], device=x.device)))


def test_devices_in_the_graph_move_with_it() -> None:
    x = torch.randn(2, 5, 4)
    net = prepared(Positions(), x)
    expected = outputs(net, x)
    there = torch.device("meta")
    graph = qat.move_(copy.deepcopy(net), there).graph
    devices = [part for node in graph.nodes for part in (*node.args, *node.kwargs.values()) if isinstance(part, torch.device)]
    assert devices and set(devices) == {there}
    assert all(tensor.device == there for tensor in qat.move_(copy.deepcopy(net), there).state_dict().values())
    assert torch.equal(outputs(qat.move_(net, torch.device("cpu")), x), expected)


class NoLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_what_cannot_be_prepared_is_told(residual_net: nn.Module, images: Tensor) -> None:
    with pytest.raises(UserError) as error:
        prepared(NoLayer(), images)
    assert str(error.value) == "no layer of NoLayer can be quantized"
    with pytest.raises(UserError) as error:
        qat.prepare(residual_net, (images,), calibration=lambda: [])
    assert str(error.value) == "the calibration data are empty"
