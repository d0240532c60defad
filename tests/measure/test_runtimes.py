"""Opening models in runtimes: they answer as torch does, and say what is wrong where they cannot."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.export import export_onnx, signature
from compress.measure import RUNTIMES, open_onnx, open_torch
from compress.measure.runtimes import Input


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()


@pytest.fixture(scope="module")
def file(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtimes") / "net.onnx"
    x = (torch.randn(2, 4),)
    export_onnx(net, x, path, signature(net, x))
    return path


X = torch.linspace(-1, 1, 20).view(5, 4)


@pytest.mark.parametrize("given", [X, X.double(), X.half(), X.numpy(), X.double().numpy(), X.t().contiguous().t()])
def test_a_file_takes_tensors_and_arrays_of_any_float_type(given: Any, net: nn.Module, file: Path) -> None:
    found = open_onnx(file).predict(given)
    assert found.dtype == np.float32
    assert found == pytest.approx(net(X).detach().numpy(), abs=1e-3)


def test_a_torch_module_has_the_same_face(net: nn.Module, file: Path) -> None:
    before = torch.get_num_threads()
    try:
        opened, written = open_torch(net.train(), (X,), threads=1), open_onnx(file, threads=1)
    finally:
        torch.set_num_threads(before)
    assert not net.training
    assert opened.predict(X.double()) == pytest.approx(written.predict(X), abs=1e-6)
    assert opened.run(X.numpy()) == pytest.approx(written.run(X.numpy()), abs=1e-6)
    assert (opened.runtime, opened.threads) == ("torch-cpu", 1)
    assert opened.inputs == (Input("input_0", ("batch", 4), np.dtype("float32")),)
    assert written.inputs == (Input("input", ("batch", 4), np.float32),)


class FirstOfTwo(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return x * mask, mask


def test_the_first_output_counts_and_integers_stay_integers(tmp_path: Path) -> None:
    inputs = (X, torch.ones(5, 4, dtype=torch.long))
    export_onnx(FirstOfTwo(), inputs, tmp_path / "m.onnx", signature(FirstOfTwo(), inputs))
    opened = open_onnx(tmp_path / "m.onnx")
    assert [i.dtype for i in opened.inputs] == [np.float32, np.int64]
    assert np.array_equal(opened.predict(X, torch.full((5, 4), 2)), X.numpy() * 2)
    assert np.array_equal(open_torch(FirstOfTwo(), inputs).predict(X, torch.full((5, 4), 2)), X.numpy() * 2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_an_input_has_its_own_type(dtype: torch.dtype, tmp_path: Path) -> None:
    inputs = (X, (X > 0).to(dtype))
    export_onnx(FirstOfTwo(), inputs, tmp_path / "m.onnx", signature(FirstOfTwo(), inputs))
    assert np.array_equal(open_onnx(tmp_path / "m.onnx").predict(*inputs), X.numpy() * (X.numpy() > 0))


def told(path: Path | str, runtime: str) -> str:
    with pytest.raises(UserError) as error:
        open_onnx(path, runtime)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unknown_runtime_is_told(file: Path) -> None:
    assert told(file, "ort-cpus") == "unknown runtime 'ort-cpus'. Did you mean 'ort-cpu'?"
    assert told(file, "xyz") == f"unknown runtime 'xyz'. Known: {', '.join(RUNTIMES)}."


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert told(tmp_path / "m.onnx", "ort-cpu") == f"no such file: {tmp_path / 'm.onnx'}"
    assert told(tmp_path, "ort-cpu") == f"no such file: {tmp_path}"


def test_a_file_that_is_no_onnx_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    assert told(path, "ort-cpu") == (
        f"{path} cannot be opened by ONNX Runtime: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "
        f"Load model from {path} failed:Protobuf parsing failed."
    )


@pytest.mark.parametrize("runtime", ["torch-cpu", "torch-cuda"])
def test_a_runtime_for_modules_opens_no_file(runtime: str, file: Path) -> None:
    assert told(file, runtime) == (
        f"{runtime} runs torch models, not ONNX files; for a file use one of: ort-cpu, ort-cuda, openvino"
    )


def test_openvino_names_its_install_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert told(file, "openvino") == (
        "the runtime openvino is not installed; install it with: pip install 'compress-toolkit[openvino]'"
    )


def providers(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(names))


def test_cuda_without_its_provider_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    providers(monkeypatch, "CPUExecutionProvider")
    assert told(file, "ort-cuda") == ("ort-cuda needs ONNX Runtime's CUDA provider; install it with: pip install onnxruntime-gpu")


def test_cuda_without_a_gpu_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    providers(monkeypatch, "CUDAExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert told(file, "ort-cuda") == "ort-cuda needs a GPU, and torch.cuda.is_available() is False here"
    with pytest.raises(UserError) as error:
        open_torch(nn.Linear(4, 2), (X,), "torch-cuda")
    assert str(error.value) == "torch-cuda needs a GPU, and torch.cuda.is_available() is False here"


def test_cuda_that_falls_back_to_the_cpu_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So ONNX Runtime behaves where CUDA's libraries are missing: it opens the file on the CPU and says so in its log only.
    providers(monkeypatch, "CUDAExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *_, **__: SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    )
    assert told(file, "ort-cuda") == (
        "ort-cuda could not be started: CUDAExecutionProvider found no usable CUDA and cuDNN libraries"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_module_on_the_gpu_answers_alike(net: nn.Module, file: Path) -> None:
    opened = open_torch(net, (X,), "torch-cuda")
    assert opened.predict(X) == pytest.approx(open_onnx(file).predict(X), abs=1e-4)
    net.cpu()
