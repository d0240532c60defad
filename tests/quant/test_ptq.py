"""A quantized graph against float layers with dequantized weights, and its file against integer arithmetic in numpy."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, fx, nn

from compress import outputs
from compress.errors import UserError
from compress.export import Signature, export_onnx
from compress.measure import integer_coverage, open_onnx
from compress.quant.fake_quantize import ActivationQuantizer, WeightQuantizer
from compress.quant.observers import HistogramObserver
from compress.quant.ptq import LARGEST_BIAS_CODE, QUANTIZERS, calibrate, prepare, quantizers_in
from compress.quant.ranges import METHODS
from compress.quant.scheme import Scheme


def quantized(model: nn.Module, *inputs: Tensor, ranges: str = "minmax", exclude: tuple[str, ...] = ()) -> fx.GraphModule:
    graph_module, _ = prepare(model.eval(), inputs, Scheme(exclude))
    calibrate(graph_module, lambda: [inputs], ranges)
    return graph_module


def quantizer(graph_module: fx.GraphModule, name: str) -> nn.Module:
    return graph_module.get_submodule(f"{QUANTIZERS}.{name}")


def codes(x: Tensor | np.ndarray, by: nn.Module) -> np.ndarray:
    """The integers of a tensor, in float64 arithmetic, one scale for all or one for each index of axis 0."""
    scale, zero = by.scale.double().numpy(), by.zero_point.numpy().astype(np.int64)
    low, high = (0, 255) if isinstance(by, ActivationQuantizer) else (-128, 127)
    values = np.asarray(x, np.float64)
    if scale.ndim:
        scale, zero = (part.reshape(-1, *[1] * (values.ndim - 1)) for part in (scale, zero))
    return np.clip(np.rint(values / scale) + zero, low, high).astype(np.int64)


def reals(integers: np.ndarray, by: nn.Module) -> np.ndarray:
    scale, zero = by.scale.double().numpy(), by.zero_point.numpy().astype(np.int64)
    if scale.ndim:
        scale, zero = (part.reshape(-1, *[1] * (integers.ndim - 1)) for part in (scale, zero))
    return (integers - zero) * scale


def integer_bias(bias: Tensor, x: nn.Module, weight: nn.Module) -> np.ndarray:
    return np.rint(bias.double().numpy() / (x.scale.double() * weight.scale.double()).numpy()).astype(np.int64)


def convolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sums of integer products, position by position; no padding, stride 1."""
    size = weight.shape[-1]
    rows, columns = x.shape[2] - size + 1, x.shape[3] - size + 1
    out = np.zeros((len(x), len(weight), rows, columns), np.int64)
    for row in range(rows):
        for column in range(columns):
            window = x[:, :, row : row + size, column : column + size]
            out[:, :, row, column] = np.einsum("bcij,ocij->bo", window, weight)
    return out


def written(graph_module: fx.GraphModule, path: Path, *inputs: Tensor) -> np.ndarray:
    """What ONNX Runtime gives for the exported file."""
    names = tuple(f"input_{index}" for index in range(len(inputs)))
    export_onnx(graph_module, inputs, path, Signature(names, ("logits",), tuple({} for _ in inputs)))
    return open_onnx(path).predict(*inputs)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_in_integers(bias: bool, tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias)), torch.randn(2, 3, 6, 6)
    graph_module = quantized(model, x)
    of_input, of_weight, of_output = (quantizer(graph_module, name) for name in ("input_1", "_0_weight", "conv2d"))
    sums = convolve(codes(x, of_input) - of_input.zero_point.item(), codes(model[0].weight.detach(), of_weight))
    if bias:
        sums += integer_bias(model[0].bias.detach(), of_input, of_weight).reshape(1, -1, 1, 1)
    factor = (of_input.scale.double() * of_weight.scale.double() / of_output.scale.double()).numpy().reshape(1, -1, 1, 1)
    integers = np.clip(np.rint(sums * factor) + of_output.zero_point.item(), 0, 255).astype(np.int64)
    found = written(graph_module, tmp_path / "conv.onnx", x)
    assert np.abs(codes(found, of_output) - integers).max() <= 1
    assert np.mean(codes(found, of_output) == integers) > 0.99  # the runtime multiplies in float32
    assert np.abs(codes(graph_module(x).detach(), of_output) - integers).max() <= 1


def test_a_linear_layer_in_integers_with_float_logits(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(20, 5)), torch.randn(7, 20)
    graph_module = quantized(model, x)
    of_input, of_weight = quantizer(graph_module, "input_1"), quantizer(graph_module, "_0_weight")
    sums = (codes(x, of_input) - of_input.zero_point.item()) @ codes(model[0].weight.detach(), of_weight).T
    sums += integer_bias(model[0].bias.detach(), of_input, of_weight)
    expected = sums * (of_input.scale.double() * of_weight.scale.double()).numpy()
    assert written(graph_module, tmp_path / "linear.onnx", x) == pytest.approx(expected, abs=1e-5)
    assert graph_module(x).detach().numpy() == pytest.approx(expected, abs=1e-3)  # its bias is not rounded


class Adds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 6, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(x + y)


def test_an_addition_in_integers(tmp_path: Path) -> None:
    model, inputs = Adds(), (torch.randn(9, 6), torch.rand(9, 6) * 3)
    graph_module = quantized(model, *inputs)
    of_x, of_y, of_sum, of_weight = (quantizer(graph_module, name) for name in ("x", "y", "add", "head_weight"))
    total = reals(codes(inputs[0], of_x), of_x) + reals(codes(inputs[1], of_y), of_y)
    identity = reals(codes(model.head.weight.detach(), of_weight), of_weight)
    expected = reals(codes(total, of_sum), of_sum) @ identity.T
    found = written(graph_module, tmp_path / "add.onnx", *inputs)
    assert np.abs(found - expected).max() <= 1.001 * of_sum.scale.item()
    assert np.mean(np.abs(found - expected) < 1e-5) > 0.95
    assert integer_coverage(tmp_path / "add.onnx").counts == {
        **{"conv": (0, 0), "linear": (1, 1), "product": (0, 0), "add": (1, 1)},
        "embedding": (0, 0),
    }


def test_a_quantized_layer_is_the_float_layer_with_dequantized_weights() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.randn(2, 3, 8, 8)
    graph_module = quantized(model, x)
    names = ("input_1", "relu", "conv2d_1", "_0_weight", "_2_weight")
    of_x, of_relu, of_out, of_first, of_second = (quantizer(graph_module, name) for name in names)

    def rounded(values: Tensor, by: nn.Module) -> Tensor:
        return torch.from_numpy(reals(codes(values.detach(), by), by))

    first = F.conv2d(rounded(x, of_x), rounded(model[0].weight, of_first), model[0].bias.double(), stride=2, padding=1)
    second = F.conv2d(rounded(first.relu(), of_relu), rounded(model[2].weight, of_second), model[2].bias.double())
    difference = (graph_module(x) - rounded(second, of_out)).abs()
    assert difference.max() <= 1.001 * of_out.scale.item()  # a value on the edge of two steps may fall on either side
    assert (difference < 1e-5).float().mean() > 0.98


def test_the_same_model_gives_the_same_names(residual_net: nn.Module, images: Tensor) -> None:
    first, second = (quantized(residual_net, images) for _ in range(2))
    assert [name for name, _ in first.named_modules()] == [name for name, _ in second.named_modules()]
    assert first.code == second.code
    for (name, tensor), (again, other) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert name == again
        assert torch.equal(tensor, other), name


def test_the_model_itself_stays_as_it_is(residual_net: nn.Module, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in residual_net.state_dict().items()}
    quantized(residual_net, images)
    after = residual_net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_each_quantized_weight_and_tensor_has_one_quantizer(residual_net: nn.Module, images: Tensor) -> None:
    names = [path.removeprefix(f"{QUANTIZERS}.") for path in quantizers_in(quantized(residual_net, images))]
    assert names == [
        *("x", "relu", "relu_1", "conv2d_2", "conv2d_3", "relu_2", "adaptive_avg_pool2d"),
        *("stem_weight", "conv1_weight", "conv2_weight", "shortcut_0_weight", "head_weight"),
    ]


def test_with_everything_excluded_nothing_is_quantized(residual_net: nn.Module, images: Tensor) -> None:
    graph_module = quantized(residual_net, images, exclude=("*",))
    assert quantizers_in(graph_module) == []
    assert torch.allclose(graph_module(images), residual_net(images), atol=1e-5)


@pytest.mark.parametrize("ranges", METHODS)
def test_calibration_sets_the_observed_ranges(ranges: str) -> None:
    model, batches = nn.Sequential(nn.Linear(4, 3)), [(torch.randn(5000, 4) ** 3,), (torch.randn(3000, 4) ** 3 * 2,)]
    graph_module, _ = prepare(model.eval(), batches[0])
    assert calibrate(graph_module, lambda: iter(batches), ranges) == 8000
    observer = HistogramObserver("")
    for (x,) in batches:
        observer(x)
    low, high = METHODS[ranges](observer)
    assert len({method(observer) for method in METHODS.values()}) == len(METHODS)
    found = quantizer(graph_module, "input_1")
    assert isinstance(found, ActivationQuantizer)
    assert found.scale.item() == pytest.approx((high - low) / 255, rel=1e-6)
    assert found.zero_point.item() == round(-low / ((high - low) / 255))


def test_observers_do_not_outlive_a_failed_calibration() -> None:
    graph_module, _ = prepare(nn.Sequential(nn.Linear(4, 3)).eval(), (torch.randn(5, 4),))
    with pytest.raises(UserError):
        calibrate(graph_module, lambda: [(torch.randn(5, 4),), (torch.randn(5, 6),)], "minmax")
    assert quantizers_in(graph_module) == [f"{QUANTIZERS}.input_1", f"{QUANTIZERS}._0_weight"]
    assert not any(isinstance(module, HistogramObserver) for module in graph_module.modules())


class Shared(nn.Module):
    """A convolution called twice, and a second one that has its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.tied = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.tied.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(F.relu(self.conv(F.relu(self.conv(x)))))


def test_shared_weights_have_one_quantizer_and_a_bias_for_each_use(tmp_path: Path) -> None:
    model, x = Shared(), torch.randn(2, 3, 8, 8)
    graph_module = quantized(model, x)
    names = [path.removeprefix(f"{QUANTIZERS}.") for path in quantizers_in(graph_module)]
    assert names == ["x", "relu", "relu_1", "conv2d_2", "tied_weight"]
    found = written(graph_module, tmp_path / "shared.onnx", x)
    step = quantizer(graph_module, "conv2d_2").scale.item()
    assert np.abs(found - graph_module(x).detach().numpy()).max() <= 1.001 * step
    assert integer_coverage(tmp_path / "shared.onnx").counts["conv"] == (3, 3)
    biases = [t for t in onnx.load(tmp_path / "shared.onnx").graph.initializer if t.data_type == onnx.TensorProto.INT32]
    assert len(biases) == 3
    assert len({numpy_helper.to_array(bias).tobytes() for bias in biases}) == 3


def test_the_biases_of_a_weight_with_one_scale_do_not_overflow() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        model[0].weight *= 1e-9
        model[0].bias.copy_(torch.tensor([0.1, 0.7, -2.0, 0.0]))
    graph_module, _ = prepare(model.eval(), (x,), Scheme(per_channel=False))
    calibrate(graph_module, lambda: [(x,)], "minmax")
    step = quantizer(graph_module, "input_1").scale * quantizer(graph_module, "_0_weight").scale
    assert float(2.0 / step) == pytest.approx(LARGEST_BIAS_CODE, rel=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_the_bias_of_a_dead_channel_does_not_overflow(size: float, tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        model[0].weight[1] *= size
        model[0].bias[1] = 0.7
    graph_module = quantized(model, x)
    found = written(graph_module, tmp_path / "dead.onnx", x)
    step = quantizer(graph_module, "conv2d").scale.item()
    assert found[:, 1] == pytest.approx(0.7, abs=step)
    assert np.abs(found - model(x).detach().numpy()).max() <= 3 * step


def test_weights_are_rounded_once_and_their_quantizers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "PART_ELEMENTS", 3 * 8 * 8)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval(), torch.randn(8, 3, 8, 8)
    graph_module, _ = prepare(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
    before = dict(graph_module.named_modules())
    calls = []
    forward = WeightQuantizer.forward
    monkeypatch.setattr(WeightQuantizer, "forward", lambda self, weight: calls.append(self) or forward(self, weight))
    calibrate(graph_module, lambda: [(x,)], "auto")
    assert len(calls) == len(set(calls)) == 2
    assert dict(graph_module.named_modules()) == before
    assert all(weight.is_contiguous() for weight in graph_module.parameters())


class Viewing(nn.Module):
    """Counts on the layout of memory behind its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(x.shape[0], -1))


@pytest.mark.parametrize("ranges", ["minmax", "auto"])
def test_a_view_behind_a_convolution_is_calibrated(ranges: str) -> None:
    x = torch.randn(8, 3, 8, 8)
    graph_module, _ = prepare(Viewing().eval(), (x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
    assert calibrate(graph_module, lambda: [(x,)], ranges) == 8


class Striding(Viewing):
    """Reads the first channel of its convolution as it lies in memory."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(x.as_strided((x.shape[0], 36), (144, 1)).repeat(1, 4))


def test_what_reads_memory_as_it_lies_reads_the_same_in_calibration() -> None:
    torch.manual_seed(0)
    model, x = Striding().eval(), torch.randn(8, 3, 8, 8)
    with torch.no_grad():
        model.conv.weight[1:] *= 100  # of which the first channel knows nothing
        expected = model.conv(x)[:, 0]
    graph_module, _ = prepare(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
    calibrate(graph_module, lambda: [(x,)], "minmax")
    scale = float(graph_module.get_submodule(f"{QUANTIZERS}.as_strided").scale)
    assert 255 * scale == pytest.approx(float(expected.max() - expected.min()), rel=0.02)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "Task.calibration must give a tuple of 1 tensor for each batch, got a Tensor"),
        ((), "Task.calibration must give a tuple of 1 tensor for each batch, got 0 of them"),
        (
            (torch.zeros(2, 3, 8, 8), torch.zeros(2)),
            "Task.calibration must give a tuple of 1 tensor for each batch, got 2 of them",
        ),
        (
            (torch.zeros(2, 5, 8, 8),),
            "the network does not take the calibration data, (2, 5, 8, 8) of float32: Given groups=1, weight of size [4, 3, 3, 3], "
            "expected input[2, 5, 8, 8] to have 3 channels, but got 5 channels instead",
        ),
    ],
)
def test_calibration_data_of_another_form_are_told(batch: object, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    graph_module, _ = prepare(model, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))
    with pytest.raises(UserError) as error:
        calibrate(graph_module, lambda: [batch], "minmax")  # type: ignore[list-item]
    assert str(error.value) == message
