"""The quantizers that train: the same numbers as the ordinary ones, and the paper's gradients, computed value by value."""

import math

import pytest
import torch
from torch import Tensor

from compress.quant.fake_quantize import SMALLEST_SCALE, ActivationQuantizer, WeightQuantizer
from compress.quant.learned import LearnedQuantizer


def of_activations(low: float, high: float) -> ActivationQuantizer:
    quantizer = ActivationQuantizer()
    quantizer.set_range(low, high)
    return quantizer


def of_weights(weight: Tensor, bits: int, *, per_channel: bool = True, share: float = 1.0) -> WeightQuantizer:
    """Covers a share of the largest magnitude, so that some weights are clipped."""
    quantizer = WeightQuantizer(len(weight) if per_channel else None, bits)
    quantizer.set_from(weight * share)
    return quantizer


def paper(v: float, s: float, low: int, high: int) -> tuple[float, float, float]:
    """Value, and derivatives by v and by s, of one number: equations 1 to 3 and 5, for codes `low` to `high` around zero."""
    if v / s <= low:
        return low * s, 0.0, float(low)
    if v / s >= high:
        return high * s, 0.0, float(high)
    return round(v / s) * s, 1.0, -v / s + round(v / s)


def off_the_edges(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Values moved out of the half step beyond either edge, where our gradient is not the paper's on purpose."""
    codes = x / scale
    codes = torch.where((codes > high - 0.01) & (codes < high + 0.6), high + 1.3, codes)
    return torch.where((codes < low + 0.01) & (codes > low - 0.6), low - 1.3, codes) * scale


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.0, 2.0), (-2.0, 0.0), (-3.0, 0.1)])
def test_gradients_of_activations_are_the_papers(low: float, high: float) -> None:
    ordinary = of_activations(low, high)
    learned = LearnedQuantizer(ordinary)
    zero, scale = int(ordinary.zero_point), ordinary.scale.item()
    x = off_the_edges(torch.randn(3, 2, 4, 4) * 2, ordinary.scale, -zero, 255 - zero).requires_grad_()
    upstream = torch.randn_like(x)
    (learned(x) * upstream).sum().backward()
    each = [paper(v, scale, -zero, 255 - zero) for v in x.flatten().tolist()]
    by_x = torch.tensor([dv for _, dv, _ in each]).view_as(x) * upstream
    factor = 1 / math.sqrt(2 * 4 * 4 * max(zero, 255 - zero))  # the features of one sample, and Q_P
    by_scale = factor * sum(ds * g for (_, _, ds), g in zip(each, upstream.flatten().tolist(), strict=True))
    assert torch.equal(x.grad, by_x)
    assert 0 < (by_x == 0).sum() < x.numel()
    assert learned.scale.grad.item() == pytest.approx(by_scale, rel=1e-3)
    assert learned(x.detach()).flatten().tolist() == pytest.approx([value for value, _, _ in each], abs=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gradients_of_weights_are_the_papers_for_each_channel(bits: int) -> None:
    weight, largest = torch.randn(4, 3, 3, 3), 2 ** (bits - 1) - 1
    ordinary = of_weights(weight, bits, share=0.5)
    learned = LearnedQuantizer(ordinary)
    weight = off_the_edges(weight, ordinary.scale.view(-1, 1, 1, 1), -largest, largest).requires_grad_()
    upstream = torch.randn_like(weight)
    (learned(weight) * upstream).sum().backward()
    for channel, scale in enumerate(ordinary.scale.tolist()):
        each = [paper(v, scale, -largest, largest) for v in weight[channel].flatten().tolist()]
        gradients = upstream[channel].flatten()
        by_scale = sum(ds * g for (_, _, ds), g in zip(each, gradients.tolist(), strict=True)) / math.sqrt(27 * largest)
        assert learned.scale.grad[channel].item() == pytest.approx(by_scale, rel=1e-3, abs=1e-5)
        assert weight.grad[channel].flatten().tolist() == (torch.tensor([dv for _, dv, _ in each]) * gradients).tolist()


def test_one_scale_for_a_whole_weight_has_the_gradient_of_its_channels_together() -> None:
    weight = torch.randn(4, 6)
    one = LearnedQuantizer(of_weights(weight, 4, per_channel=False, share=0.5))
    many = LearnedQuantizer(of_weights(weight, 4))
    with torch.no_grad():
        many.scale.fill_(one.scale.item())
    upstream = torch.randn_like(weight)
    for quantizer in (one, many):
        (quantizer(weight) * upstream).sum().backward()
    # Of 24 weights, and of 6.
    assert one.scale.grad.item() * math.sqrt(24) == pytest.approx(many.scale.grad.sum().item() * math.sqrt(6), rel=1e-5)


def test_a_weight_on_the_edge_still_has_its_gradient() -> None:
    """Calibration puts the largest of a channel there, and 127 steps of a 127th may be more than it."""
    weight = torch.rand(200, 5).requires_grad_()
    learned = LearnedQuantizer(of_weights(weight, 8))
    learned(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(200, 5))


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_forward_is_the_ordinary_quantizers(symmetric: bool) -> None:
    ordinary = ActivationQuantizer(symmetric=symmetric)
    ordinary.set_range(-1.3, 2.9)
    x = torch.randn(4, 3, 9, 9) * 3
    assert torch.equal(LearnedQuantizer(ordinary)(x), ordinary(x))
    weight = torch.randn(4, 3, 3, 3)
    for per_channel in (True, False):
        quantizer = of_weights(weight, 4, per_channel=per_channel)
        assert torch.equal(LearnedQuantizer(quantizer)(weight), quantizer(weight))


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_weights_outside_get_the_largest_code_of_their_bits(bits: int) -> None:
    weight = torch.tensor([[-9.0, -1.0, 0.0, 1.0, 9.0]])
    learned = LearnedQuantizer(of_weights(torch.tensor([[1.0]]), bits))
    assert learned(weight)[0].tolist() == pytest.approx([-1, -1, 0, 1, 1])


def test_it_computes_in_float32_under_autocast() -> None:
    quantizer = of_activations(-1, 2)
    learned, x = LearnedQuantizer(quantizer), torch.randn(50).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = learned(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, quantizer(x.float()))
    found.sum().backward()
    assert learned.scale.grad.dtype == torch.float32


def test_scales_that_are_not_learned_stay() -> None:
    learned, x = LearnedQuantizer(of_activations(0, 2), learn=False), torch.rand(5, requires_grad=True)
    learned(x).sum().backward()
    assert learned.scale.grad is None
    assert torch.equal(x.grad, torch.ones(5))


def test_a_scale_below_the_smallest_has_a_gradient_that_brings_it_back() -> None:
    learned, x = LearnedQuantizer(of_activations(0, 2)), torch.rand(5)
    with torch.no_grad():
        learned.scale.fill_(-0.1)
    assert learned(x).tolist() == pytest.approx([255 * SMALLEST_SCALE] * 5)
    (learned(x) - x).square().sum().backward()
    assert learned.scale.grad < 0  # a step against it makes the scale larger
    assert learned.write_back_().scale.item() == pytest.approx(SMALLEST_SCALE)


def test_zero_is_exact_whatever_the_scale() -> None:
    for scale in (1e-9, 0.3, 1e4):
        learned = LearnedQuantizer(of_activations(-1, 2))
        with torch.no_grad():
            learned.scale.fill_(scale)
        assert learned(torch.zeros(3)).tolist() == [0, 0, 0]
