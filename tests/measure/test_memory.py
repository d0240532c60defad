"""Peak memory of a file in a process of its own."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from compress.measure import memory, peak_memory_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak memory")

MEGABYTE = 2**20


def file_of(path: Path, width: int) -> Path:
    """A product with a weight of `width` x 1024 numbers."""
    text = f'<ir_version: 9, opset_import: ["": 20]> net (float[n,{width}] x) => (float[n,1024] y) {{ y = MatMul(x, w) }}'
    proto = parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((width, 1024), np.float32), "w"))
    onnx.save(proto, path)
    return path


def test_a_larger_file_needs_more(tmp_path: Path) -> None:
    small = peak_memory_bytes(file_of(tmp_path / "small.onnx", 16), [(1, 16)])
    large = peak_memory_bytes(file_of(tmp_path / "large.onnx", 16 * 1024), [(1, 16 * 1024)])
    assert small is not None
    assert large is not None
    assert 0 < small < 32 * MEGABYTE  # torch alone would be hundreds
    assert large - small > 60 * MEGABYTE  # the weight is 64


def test_what_cannot_be_run_has_no_figure(tmp_path: Path) -> None:
    assert peak_memory_bytes(tmp_path / "missing.onnx", [(1, 16)]) is None
    assert peak_memory_bytes(file_of(tmp_path / "m.onnx", 16), [(1, 17)]) is None


def test_a_system_that_does_not_tell_has_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.Path, "exists", lambda path: False)
    assert peak_memory_bytes(tmp_path / "m.onnx", [(1, 16)]) is None
