"""ONNX Runtime's own static quantization of an fp32 file, the peer that our int8 is held against."""

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

SETTINGS = "quant_pre_process + quantize_static(QDQ, QUInt8 activations, QInt8 weights per channel, MinMax)"


class _Reader(CalibrationDataReader):
    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch}


def quantize_with_ort(source: Path, target: Path, batches: Iterable[np.ndarray]) -> None:
    """Write `target`, the int8 form that ONNX Runtime's tool makes of `source` with these calibration batches."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Its symbolic shape inference fails on the strided slices of CIFAR ResNets; ONNX's own is enough here.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
