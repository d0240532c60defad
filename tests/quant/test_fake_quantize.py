"""The quantizer modules: what range they cover, and that zero is always exact."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.quant.fake_quantize import SMALLEST_SCALE, ActivationQuantizer, WeightQuantizer


def covering(low: float, high: float) -> ActivationQuantizer:
    quantizer = ActivationQuantizer()
    quantizer.set_range(low, high)
    return quantizer


def through(quantizer: ActivationQuantizer, *values: float) -> list[float]:
    return quantizer(torch.tensor(values)).tolist()


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (-1.0, 1.55, 0.01, 100),
        (0.0, 2.55, 0.01, 0),
        (1.0, 2.55, 0.01, 0),  # all positive: widened down to zero
        (-2.55, 0.0, 0.01, 255),
        (-2.55, -1.0, 0.01, 255),  # all negative: widened up to zero
        (5.1, 5.1, 0.02, 0),  # constant
        (-5.1, -5.1, 0.02, 255),
        (0.0, 0.0, SMALLEST_SCALE, 0),  # always zero
        (1e-20, 1e-18, SMALLEST_SCALE, 0),  # tiny
        (-1e30, 1e30, 2e30 / 255, 128),  # huge
    ],
)
def test_the_range_holds_zero_and_both_ends(low: float, high: float, scale: float, zero_point: int) -> None:
    quantizer = covering(low, high)
    assert quantizer.scale.item() == pytest.approx(scale, rel=1e-6)
    assert quantizer.zero_point.item() == zero_point
    assert through(quantizer, 0.0) == [0.0]
    assert np.abs(np.array(through(quantizer, low, high)) - [low, high]).max() <= 0.5001 * scale


def test_the_buffers_keep_type_and_shape() -> None:
    quantizer = covering(-3, 4)
    assert (quantizer.scale.dtype, quantizer.scale.shape) == (torch.float32, ())
    assert (quantizer.zero_point.dtype, quantizer.zero_point.shape) == (torch.uint8, ())


numbers = st.floats(-1e6, 1e6, width=32)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(low=numbers, high=numbers, share=st.floats(0, 1))
def test_inside_the_range_the_error_is_half_a_step_at_most(low: float, high: float, share: float) -> None:
    low, high = min(low, high), max(low, high)
    quantizer = covering(low, high)
    value = low + share * (high - low)
    assert through(quantizer, 0.0) == [0.0]
    assert abs(through(quantizer, value)[0] - value) <= 0.5001 * quantizer.scale.item() + 1e-6 * abs(value)


@pytest.mark.parametrize(("bits", "largest_code"), [(8, 127), (7, 63)])
def test_each_channel_of_a_weight_uses_all_its_codes(bits: int, largest_code: int) -> None:
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([1e-3, 1.0, 50.0, 7.0]).view(-1, 1, 1, 1)
    quantizer = WeightQuantizer(4, bits)
    quantizer.set_from(weight)
    steps = np.abs(weight.numpy()).reshape(4, -1).max(1) / largest_code
    assert quantizer.scale.numpy() == pytest.approx(steps, rel=1e-6)
    codes = quantizer(weight).numpy() / steps.reshape(-1, 1, 1, 1)
    assert codes == pytest.approx(np.rint(codes), abs=1e-3)
    assert np.abs(np.rint(codes)).reshape(4, -1).max(1).tolist() == [largest_code] * 4
    assert np.abs(codes - weight.numpy() / steps.reshape(-1, 1, 1, 1)).max() <= 0.5001


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.randn(2, 5)
    weight[1] = 0
    quantizer = WeightQuantizer(2)
    quantizer.set_from(weight)
    assert quantizer.scale[1].item() == pytest.approx(SMALLEST_SCALE)
    assert torch.equal(quantizer(weight)[1], torch.zeros(5))


def test_the_step_of_a_bias_is_never_denormal() -> None:
    assert np.float32(SMALLEST_SCALE) * np.float32(SMALLEST_SCALE) > np.finfo(np.float32).tiny
