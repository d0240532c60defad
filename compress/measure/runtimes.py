"""Ways to run a model, all with one face: `run(inputs) -> first output`."""

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import UserError, did_you_mean
from compress.outputs import first_tensor

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class Input:
    """One input of an opened model: name, shape (a string for a dynamic axis) and numpy type."""

    name: str
    shape: tuple[int | str, ...]
    dtype: Any


@dataclass(frozen=True)
class Session:
    """A model opened in a runtime. `run` takes arrays in the order of `inputs` and gives the first output."""

    runtime: str
    inputs: tuple[Input, ...]
    threads: int
    run: Callable[..., np.ndarray]

    def predict(self, *inputs: Tensor | np.ndarray) -> np.ndarray:
        """`run` on tensors or arrays of any float type that numpy has; the form that `Task.evaluate` calls.

        A file whose batch is fixed at 1 is run sample by sample.
        """
        given = [np.ascontiguousarray(x, dtype=i.dtype) for x, i in zip(inputs, self.inputs, strict=True)]
        if self.inputs[0].shape[:1] == (1,) and len(given[0]) > 1:
            singles = (self.run(*(x[n : n + 1] for x in given)) for n in range(len(given[0])))
            return np.concatenate(list(singles)).astype(np.float32)
        return self.run(*given).astype(np.float32)


def open_onnx(path: Path | str, runtime: str = "ort-cpu", threads: int = 1) -> Session:
    """Open an ONNX file in one of `RUNTIMES`.

    Raises:
        UserError: the file is missing or no ONNX model, or the runtime is unknown or not usable here; says what installs it.
    """
    if runtime not in RUNTIMES:
        raise UserError(f"unknown runtime '{runtime}'." + did_you_mean(runtime, list(RUNTIMES)))
    if not Path(path).is_file():
        raise UserError(f"no such file: {path}")
    opener = RUNTIMES[runtime]
    if opener is None:
        raise UserError(f"{runtime} runs torch models, not ONNX files; for a file use one of: ort-cpu, ort-cuda, openvino")
    return opener(Path(path), threads)


def session_options(threads: int) -> Any:
    """ONNX Runtime's options: its defaults with a fixed number of threads, and no chatter."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _open_ort(path: Path, threads: int, provider: str, runtime: str) -> Session:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), session_options(threads), providers=[provider])
    except Exception as error:  # onnxruntime raises its own kinds, which share no public base
        raise UserError(f"{path} cannot be opened by ONNX Runtime: {str(error).splitlines()[0]}") from None
    if provider not in session.get_providers():  # without its libraries the runtime falls back to the CPU, silently
        raise UserError(f"{runtime} could not be started: {provider} found no usable CUDA and cuDNN libraries")
    inputs = tuple(Input(i.name, tuple(i.shape), _DTYPES.get(i.type, np.float32)) for i in session.get_inputs())
    first = session.get_outputs()[0].name
    names = [i.name for i in inputs]

    def run(*arrays: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([first], dict(zip(names, arrays, strict=True)))[0])

    return Session(runtime, inputs, threads, run)


def _ort_cpu(path: Path, threads: int) -> Session:
    return _open_ort(path, threads, "CPUExecutionProvider", "ort-cpu")


def _ort_cuda(path: Path, threads: int) -> Session:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise UserError("ort-cuda needs ONNX Runtime's CUDA provider; install it with: pip install onnxruntime-gpu")
    if not torch.cuda.is_available():
        raise UserError("ort-cuda needs a GPU, and torch.cuda.is_available() is False here")
    if hasattr(onnxruntime, "preload_dlls"):  # finds the CUDA and cuDNN libraries that came with torch
        with contextlib.suppress(Exception):
            onnxruntime.preload_dlls()
    return _open_ort(path, threads, "CUDAExecutionProvider", "ort-cuda")


def _length(dim: Any) -> int | str:
    """An OpenVINO dimension as ONNX Runtime gives it: a number, or a text where it is dynamic."""
    return dim.get_length() if dim.is_static else "dynamic"


def check_installed(runtime: str) -> None:
    """Refuse a runtime whose package is not there.

    Raises:
        UserError: says what installs it.
    """
    if runtime == "openvino" and importlib.util.find_spec("openvino") is None:
        raise UserError("the runtime openvino is not installed; install it with: pip install 'compress-toolkit[openvino]'")


def compiled_by_openvino(path: Path | str, threads: int) -> Any:
    """A file as OpenVINO's CPU plugin will execute it.

    Raises:
        UserError: OpenVINO is not installed, or cannot open the file.
    """
    check_installed("openvino")
    import openvino

    try:
        hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        return openvino.Core().compile_model(str(path), "CPU", hints)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(("Exception from", "While"))]
        raise UserError(f"{path} cannot be opened by OpenVINO: {(lines or ['unknown error'])[0]}") from None


def _openvino(path: Path, threads: int) -> Session:
    compiled = compiled_by_openvino(path, threads)
    inputs = tuple(
        Input(port.any_name, tuple(_length(d) for d in port.partial_shape), port.element_type.to_dtype())
        for port in compiled.inputs
    )
    request = compiled.create_infer_request()

    def run(*arrays: np.ndarray) -> np.ndarray:
        return np.array(next(iter(request.infer(list(arrays)).values())))

    return Session("openvino", inputs, threads, run)


# Name -> how a file is opened in it; None for those that run torch modules.
RUNTIMES: dict[str, Callable[[Path, int], Session] | None] = {
    "ort-cpu": _ort_cpu,
    "ort-cuda": _ort_cuda,
    "openvino": _openvino,
    "torch-cpu": None,
    "torch-cuda": None,
}


def open_torch(model: nn.Module, example_inputs: tuple[Tensor, ...], runtime: str = "torch-cpu", threads: int = 1) -> Session:
    """Open a torch module in eager mode, in eval mode without gradients, on `torch-cpu` or `torch-cuda`.

    On a GPU `run` returns only when the work is done. The module is moved to the device.
    """
    device = torch.device(runtime.removeprefix("torch-"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("torch-cuda needs a GPU, and torch.cuda.is_available() is False here")
    model.to(device).eval()
    if device.type == "cpu":
        torch.set_num_threads(threads)

    def run(*arrays: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return first_tensor(model(*(torch.as_tensor(x).to(device) for x in arrays))).cpu().numpy()

    inputs = tuple(Input(f"input_{n}", ("batch", *x.shape[1:]), x.numpy().dtype) for n, x in enumerate(example_inputs))
    return Session(runtime, inputs, threads, run)
