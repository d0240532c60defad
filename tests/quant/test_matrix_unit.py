"""The matrix unit of Intel's processors: which convolutions are stored for it, what is said of it, and that no number changes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import compress
from compress.artifact import Artifact
from compress.errors import UserError
from compress.export import export_onnx
from compress.measure import environment, open_onnx
from compress.onnx_rewrites.amx import gains
from compress.passes.int8 import Int8
from compress.pipeline import transformed
from compress.task import Task
from compress.testing import check_pass

IMAGES = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    """Two convolutions that gain, the second and the last; a small one, and one for each channel."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 64, 3), nn.ReLU(), nn.Conv2d(64, 192, 3, padding=1), nn.ReLU(), nn.Conv2d(192, 192, 3, groups=192)]
    return nn.Sequential(*layers, nn.Conv2d(192, 168, 1), nn.Flatten())


def task() -> Task:
    return Task((IMAGES[:2],), lambda predict: float(predict(IMAGES).argmax(1).mean()) / 1344, lambda: [(IMAGES,)])


def quantized(path: Path, **options: object) -> tuple[list[str], list[int]]:
    """The notes of the pass, and the zero points of the weights in the file, in the order of the layers."""
    artifact = transformed(Int8(keep_slow=True, **options), Artifact.start(network(), task()), 0, torch.device("cpu"))
    export_onnx(artifact.model, artifact.task.example_inputs, path, artifact.signature)
    return artifact.notes, zero_points(path)


def zero_points(path: Path) -> list[int]:
    proto = onnx.load(path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    producer = {name: node for node in proto.graph.node for name in node.output}
    found = [constants[producer[node.input[1]].input[2]] for node in proto.graph.node if node.op_type == "Conv"]
    assert all(len(set(zeros.ravel())) == 1 for zeros in found)
    return [int(zeros.ravel()[0]) for zeros in found]


@pytest.mark.parametrize(
    ("shape", "groups", "expected"),
    [
        ((168, 192, 1, 1), 1, True),
        ((166, 192, 1, 1), 1, False),  # 31,872 weights
        ((256, 191, 1, 1), 1, False),
        ((63, 1024, 1, 1), 1, False),
        ((64, 87, 3, 3), 1, True),
        ((64, 86, 3, 3), 1, False),  # 49,536 weights
        ((63, 128, 3, 3), 1, False),
        ((512, 21, 3, 3), 1, False),  # 189 products
        ((128, 128, 3, 3), 2, False),
        ((256, 256, 3), 1, False),
        ((256, 256), 1, False),
    ],
)
def test_long_sums_gain(shape: tuple[int, ...], groups: int, expected: bool) -> None:
    assert gains(shape, groups) is expected


def test_the_file_says_the_same_number_for_number(tmp_path: Path) -> None:
    with_amx, without = tmp_path / "with.onnx", tmp_path / "without.onnx"
    notes, zeros = quantized(with_amx, amx=True)
    assert notes[0] == "2 convolutions stored for AMX, with the zero point of weights at -1"
    assert zeros == [0, -1, 0, -1]
    notes, zeros = quantized(without, amx=False)
    assert not any("AMX" in note for note in notes)
    assert zeros == [0, 0, 0, 0]
    answers = [open_onnx(path).predict(IMAGES) for path in (with_amx, without)]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("here", [True, False])
def test_the_processor_at_hand_decides(here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "isa_flags", lambda: ("avx512_vnni", "amx_int8") if here else ("avx512_vnni",))
    assert quantized(tmp_path / "net.onnx")[1] == ([0, -1, 0, -1] if here else [0, 0, 0, 0])


def test_packed_codes_stay(tmp_path: Path) -> None:
    notes, _ = quantized(tmp_path / "net.onnx", amx=True, bits={"2": 4}, bias_correction=False)
    assert notes[0] == "1 convolution stored for AMX, with the zero point of weights at -1"


class Twice(nn.Module):
    """A convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(96, 96, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x.repeat(1, 24, 1, 1)).relu()).flatten(1)


class ReadElsewhere(Twice):
    """A convolution whose weight a sum reads, too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat(1, 24, 1, 1)).mean((2, 3)) + self.conv.weight.mean((1, 2, 3))


class Stem(Twice):
    """A first convolution that reads blocks of pixels, 189 products that become 192."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 320, (7, 8), 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[:, :3]).relu().mean((2, 3))


@pytest.mark.parametrize("kind", [Twice, ReadElsewhere, Stem])
def test_what_is_said_is_what_is_in_the_file(kind: type[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "network", kind)
    notes, zeros = quantized(tmp_path / "net.onnx", amx=True)
    assert not any("AMX" in note for note in notes)
    assert set(zeros) == {0}


def test_a_run_keeps_it_on_disk(tmp_path: Path) -> None:
    run = compress.run(network(), task(), [Int8(keep_slow=True, amx=True)], out=tmp_path / "run")
    assert zero_points(tmp_path / "run" / "model.onnx") == [0, -1, 0, -1]
    again = compress.load(tmp_path / "run", model=network())
    artifact = Artifact.start(network(), task())
    export_onnx(again, artifact.task.example_inputs, tmp_path / "again.onnx", artifact.signature)
    assert zero_points(tmp_path / "again.onnx") == [0, -1, 0, -1]
    assert run.report["integer_coverage"]["conv"] == [4, 4]


def test_it_keeps_the_contract() -> None:
    check_pass(Int8(amx=True), network(), task())


def test_other_runtimes_have_no_use_for_it() -> None:
    with pytest.raises(UserError) as error:
        Int8(target="openvino", amx=True)
    assert str(error.value) == "int8: amx is how files for ort-cpu are written; target openvino has no use for it"
