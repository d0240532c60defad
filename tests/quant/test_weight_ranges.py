"""Fitted scales against a search by hand, channel by channel."""

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from compress.quant.ptq import folded, insert_quantizers
from compress.quant.scheme import Scheme
from compress.quant.weight_ranges import fit_weight_ranges_

COLUMNS = 40


def fitted(model: nn.Module, scheme: Scheme) -> tuple[fx.GraphModule, int]:
    graph_module = folded(model.eval(), (torch.rand(2, COLUMNS),))
    insert_quantizers(graph_module, scheme)
    return graph_module, fit_weight_ranges_(graph_module)


def with_outliers() -> nn.Module:
    layer = nn.Linear(COLUMNS, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, COLUMNS))
        layer.weight[0, 0] = 4
        layer.weight[-1] = 0
    return nn.Sequential(layer)


def least_error(weight: np.ndarray, largest_code: int) -> float:
    """Of one channel, or of a whole weight; tried at every hundredth of the range."""
    errors = []
    for share in np.linspace(0.2, 1, 81):
        step = max(np.abs(weight).max() * share / largest_code, 1e-12)
        rounded = [min(max(round(float(w) / step), -largest_code), largest_code) * step for w in weight.ravel()]
        errors.append(float(np.square(np.array(rounded) - weight.ravel()).sum()))
    return min(errors)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_no_scale_has_a_smaller_error(bits: int, per_channel: bool) -> None:
    torch.manual_seed(bits)
    model = with_outliers()
    exact = model[0].weight.detach().clone()
    graph_module, count = fitted(model, Scheme(weight_bits=bits, per_channel=per_channel))
    assert count == 1
    quantizer, stored = graph_module.quantizers._0_weight, graph_module.get_parameter("0.weight").detach()
    found = quantizer(stored).double().numpy()
    parts = list(zip(found, exact.numpy(), strict=True)) if per_channel else [(found, exact.numpy())]
    for rounded, channel in parts:
        error = float(np.square(rounded - channel).sum())
        assert error <= 1.001 * least_error(channel, 2 ** (bits - 1) - 1) + 1e-9
    codes = found / quantizer.scale.double().numpy().reshape(-1, 1)
    assert np.abs(codes).max() <= (2 ** (bits - 1) - 1) * (1 + 1e-6)


def clipped_weight(bits: int) -> tuple[Tensor, Tensor]:
    model = with_outliers()
    graph_module, _ = fitted(model, Scheme(weight_bits=bits))
    return model[0].weight.detach(), graph_module.get_parameter("0.weight").detach()


def test_the_stored_weight_is_clipped_and_otherwise_stays() -> None:
    torch.manual_seed(0)
    exact, stored = clipped_weight(bits=2)
    assert stored[0, 0] < 0.9 * exact[0, 0]
    inside = stored.abs() < stored.abs().amax(1, keepdim=True)
    assert inside.any()
    assert torch.equal(stored[inside], exact[inside])
    assert torch.equal(stored.sign(), exact.sign())


def test_at_8_bits_nothing_changes() -> None:
    model = with_outliers()
    before = model[0].weight.detach().clone()
    graph_module, count = fitted(model, Scheme(layer_bits={"nothing": 4}))
    assert count == 0
    assert torch.equal(graph_module.get_parameter("0.weight"), before)
    assert torch.equal(graph_module.quantizers._0_weight.scale, before.abs().amax(1).div(127).clamp(min=1e-12))


def test_a_weight_of_two_layers_is_fitted_once() -> None:
    layer = nn.Linear(COLUMNS, COLUMNS)
    graph_module, count = fitted(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(COLUMNS, 3)), Scheme(weight_bits=3))
    assert count == 2
    shared = next(module for name, module in graph_module.quantizers.named_children() if name in ("_0_weight", "_2_weight"))
    assert (shared.scale < 0.95 * layer.weight.abs().amax(1) / 3).any()
    assert (shared.scale > 0.3 * layer.weight.abs().amax(1) / 3).all()  # clipped once, and not again
