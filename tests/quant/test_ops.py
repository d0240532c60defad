"""The operator against numpy, its registration with torch, and what the exporter makes of it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.measure import open_onnx
from compress.quant.ops import fake_quantize, onnx_translations

LIMITS = {torch.uint8: (0, 255), torch.int8: (-128, 127)}


def by_numpy(x: Tensor, scale: Tensor, zero_point: Tensor) -> np.ndarray:
    """The formula of the docstring, in float64, one channel after the other."""
    low, high = LIMITS[zero_point.dtype]

    def one(values: np.ndarray, step: float, zero: int) -> np.ndarray:
        return (np.clip(np.rint(values / step) + zero, low, high) - zero) * step

    if scale.ndim == 0:
        return one(x.double().numpy(), scale.item(), zero_point.item())
    channels = zip(x.double().numpy(), scale.tolist(), zero_point.tolist(), strict=True)
    return np.stack([one(*channel) for channel in channels])


# Steps are powers of two and inputs quarters of a step, so that every division is exact: halves are halves.
QUARTERS = torch.arange(-1200, 1200) / 4


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("zero_point", [0, 3, 100])
@pytest.mark.parametrize("step", [1.0, 0.125])
def test_per_tensor_is_the_formula(step: float, zero_point: int, dtype: torch.dtype) -> None:
    scale, zero = torch.tensor(step), torch.tensor(zero_point, dtype=dtype)
    x = QUARTERS * step
    assert np.array_equal(fake_quantize(x, scale, zero).numpy(), by_numpy(x, scale, zero))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_per_channel_is_the_formula_along_axis_0(dtype: torch.dtype) -> None:
    scale = torch.tensor([1.0, 0.25, 4.0])
    zero = torch.tensor([0, 5, 90], dtype=dtype)
    x = torch.stack([QUARTERS * step for step in scale.tolist()]).view(3, 30, 80)
    assert np.array_equal(fake_quantize(x, scale, zero).numpy(), by_numpy(x, scale, zero))


@pytest.mark.parametrize("zero_point", [0, 7])
def test_halves_go_to_the_even_neighbour_whatever_the_zero_point(zero_point: int) -> None:
    x = torch.tensor([0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5])
    expected = [0, 2, 2, 4, 0, -2, -2]
    zero = torch.tensor(zero_point, dtype=torch.int8)
    assert fake_quantize(x, torch.tensor(1.0), zero).tolist() == expected
    assert fake_quantize(x[None], torch.ones(1), zero[None]).tolist() == [expected]


@pytest.mark.parametrize(("dtype", "low", "high"), [(torch.uint8, -10.0, 245.0), (torch.int8, -138.0, 117.0)])
def test_what_lies_outside_goes_to_the_edge(dtype: torch.dtype, low: float, high: float) -> None:
    x = torch.tensor([-1e30, -1000.0, low, high, 1000.0, 1e30])
    zero = torch.tensor(10, dtype=dtype)
    assert fake_quantize(x, torch.tensor(1.0), zero).tolist() == [low, low, low, high, high, high]


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_operator_is_registered_as_torch_demands(channels: int | None, layout: torch.memory_format) -> None:
    x = torch.randn(3, 2, 4, 4).to(memory_format=layout)
    shape = () if channels is None else (channels,)
    torch.library.opcheck(fake_quantize, (x, torch.full(shape, 0.1), torch.zeros(shape, dtype=torch.int8)))


class Quantizes(nn.Module):
    def __init__(self, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.scale, self.zero_point)


@pytest.mark.parametrize(
    ("scale", "zero_point", "kind"),
    [
        (torch.tensor(0.5), torch.tensor(7, dtype=torch.uint8), onnx.TensorProto.UINT8),
        (torch.tensor([0.5, 2.0]), torch.tensor([0, 0], dtype=torch.int8), onnx.TensorProto.INT8),
    ],
)
def test_the_exporter_writes_quantize_and_dequantize(scale: Tensor, zero_point: Tensor, kind: int, tmp_path: Path) -> None:
    model, x = Quantizes(scale, zero_point).eval(), torch.linspace(-300, 300, 401).repeat(2, 1)
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False, custom_translation_table=onnx_translations())
    proto = program.model_proto
    assert [node.op_type for node in proto.graph.node] == ["QuantizeLinear", "DequantizeLinear"]
    stored = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert {stored[node.input[2]] for node in proto.graph.node} == {kind}
    onnx.save(proto, tmp_path / "q.onnx")
    assert np.array_equal(open_onnx(tmp_path / "q.onnx").predict(x), model(x).numpy())
