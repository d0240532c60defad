"""One call that times a module or a file: the first sample, in the runtime asked for, and nothing left changed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compress
from compress.export import export_onnx, signature
from compress.measure import time_model

QUICK = {"min_runs": 3, "min_seconds": 0.01}


class Noting(nn.Module):
    """Remembers the batch, the mode and the threads of its last call."""

    seen: tuple[int, bool, int] = (0, False, 0)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        Noting.seen = (len(x), self.training, torch.get_num_threads())
        return self.layer(x)


def test_a_module_is_timed_in_eval_mode_on_one_sample_and_left_as_it_is() -> None:
    model, threads = Noting().train(), torch.get_num_threads()
    times = compress.measure.time_model(model, (torch.zeros(5, 4),), threads=threads + 1, **QUICK)
    assert Noting.seen == (1, False, threads + 1)
    assert model.training and torch.get_num_threads() == threads
    assert (times.runtime, times.batch, times.threads) == ("torch-cpu", 1, threads + 1)
    assert len(times.samples_ms) >= 3 and times.p50 > 0


def test_a_file_is_timed_in_onnx_runtime(tmp_path: Path) -> None:
    model, inputs = nn.Sequential(nn.Linear(4, 2)).eval(), (torch.zeros(2, 4),)
    export_onnx(model, inputs, tmp_path / "model.onnx", signature(model, inputs))
    times = time_model(str(tmp_path / "model.onnx"), inputs, **QUICK)
    assert (times.runtime, times.batch, times.threads) == ("ort-cpu", 1, 1)
    with pytest.raises(compress.UserError) as caught:
        time_model(tmp_path / "none.onnx", inputs)
    assert str(caught.value) == f"no such file: {tmp_path}/none.onnx"
    with pytest.raises(compress.UserError) as caught:
        time_model(tmp_path / "model.onnx", inputs, runtime="torch-cpu")
    assert str(caught.value) == (
        "torch-cpu runs torch models, not ONNX files; for a file use one of: ort-cpu, ort-cuda, openvino"
    )
