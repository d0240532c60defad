"""Other tools' static quantization of an fp32 file, which our int8 is held against."""

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

SETTINGS = "quant_pre_process + quantize_static(QDQ, QUInt8 activations, QInt8 weights per channel, MinMax)"
NNCF_SETTINGS = "nncf.quantize on the ONNX file, defaults, subset_size = all calibration samples"
Batches = Callable[[], Iterator[tuple[np.ndarray, ...]]]


def _feeds(source: Path, batches: Batches) -> Iterator[dict[str, np.ndarray]]:
    names = [value.name for value in onnx.load(source).graph.input]
    return (dict(zip(names, batch, strict=True)) for batch in batches())


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Iterator[dict[str, np.ndarray]]) -> None:
        self.feeds = feeds

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantize_with_ort(source: Path, target: Path, batches: Batches) -> None:
    """Write `target`, the int8 form that ONNX Runtime's tool makes of `source` with these calibration batches."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Its symbolic shape inference fails on the strided slices of CIFAR ResNets; ONNX's own is enough here.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(_feeds(source, batches)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


def quantize_with_nncf(source: Path, target: Path, batches: Batches) -> None:
    """Write `target`, the int8 form that NNCF makes of `source`, one calibration sample at a time as it recommends."""
    import nncf

    samples = _Single(source, batches)
    onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(samples), subset_size=len(samples)), target)


def quantize_with_nncf_for_openvino(source: Path, target: Path, batches: Batches) -> None:
    """Write `target`, an `.xml` file with its `.bin`, the int8 form that NNCF makes of `source` for OpenVINO."""
    import nncf
    import openvino

    samples = _Single(source, batches)
    model = openvino.Core().read_model(source)
    openvino.save_model(nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples)), target, compress_to_fp16=False)


class _Single:
    """Calibration samples one at a time, made anew on each iteration."""

    def __init__(self, source: Path, batches: Batches) -> None:
        self.source, self.batches = source, batches

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for feed in _feeds(self.source, self.batches):
            for index in range(len(next(iter(feed.values())))):
                yield {name: array[index : index + 1] for name, array in feed.items()}

    def __len__(self) -> int:
        return sum(1 for _ in self)
