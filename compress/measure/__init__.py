"""What a model costs and what it takes: parameters, MACs, bytes, milliseconds, memory, integers."""

from compress.measure.cost import count_macs, count_nonzero, count_parameters
from compress.measure.coverage import integer_coverage
from compress.measure.environment import describe_environment
from compress.measure.latency import Latency, time_interleaved, time_one
from compress.measure.memory import peak_memory_bytes
from compress.measure.models import time_model
from compress.measure.runtimes import RUNTIMES, open_onnx, open_torch

__all__ = [
    "RUNTIMES",
    "Latency",
    "count_macs",
    "count_nonzero",
    "count_parameters",
    "describe_environment",
    "integer_coverage",
    "open_onnx",
    "open_torch",
    "peak_memory_bytes",
    "time_interleaved",
    "time_model",
    "time_one",
]
