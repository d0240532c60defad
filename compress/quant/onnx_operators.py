"""How the exporter writes the operators of this package."""

from collections.abc import Callable
from typing import Any

from compress.quant import blocks, dynamic, ops


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export(custom_translation_table=...)` takes: our operator -> a function that writes ONNX operators."""
    return {**ops.onnx_translations(), **dynamic.onnx_translations(), **blocks.onnx_translations()}
