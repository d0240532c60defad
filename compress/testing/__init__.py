"""`check_pass`: the contract of every pass, ours and yours; run it in your own tests.

from compress.testing import check_pass

def test_my_pass():
    check_pass(MyPass(strength=0.3))
"""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress.artifact import Artifact
from compress.errors import CompressError, PassError
from compress.export import export_onnx
from compress.measure import open_onnx
from compress.outputs import first_tensor
from compress.parity import check_parity
from compress.passes.base import ORDER, Pass
from compress.pipeline import apply, check, differs, options_of, transformed
from compress.quant.ptq import rounds_activations
from compress.recipe import make_pass
from compress.store import load_model, save_model
from compress.task import Predict, Task


class TinyResidual(nn.Module):
    """Images (batch, 3, 16, 16) to 4 logits: two convolutions with batch norm, a shortcut, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.body_bn = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_bn(self.stem(x)))
        x = torch.relu(self.body_bn(self.body(x)) + x)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def tiny_model() -> nn.Module:
    """A `TinyResidual` whose batch norms have seen data, the same on each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TinyResidual()
        model.train()
        for images, _ in _batches():
            model(images)
    return model.eval()


def _batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Noise with a bright quadrant, whose place is the label."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        labels = torch.randint(0, 4, (16,), generator=generator)
        images = torch.randn(16, 3, 16, 16, generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = 8 * (label // 2), 8 * (label % 2)
            image[:, row : row + 8, column : column + 8] += 2
        yield images, labels


def tiny_task() -> Task:
    """A task for `tiny_model` with everything that a pass can ask for."""

    def accuracy(predict: Predict) -> float:
        return float(np.mean([(predict(images).argmax(-1) == labels.numpy()).mean() for images, labels in _batches()]))

    return Task(
        example_inputs=(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)),),
        evaluate=accuracy,
        calibration=lambda: ((images,) for images, _ in _batches()),
        train=_batches,
        validate=accuracy,
    )


def check_pass(pass_: Pass, model: nn.Module | None = None, task: Task | None = None) -> nn.Module:
    """Raise AssertionError, or whatever the pass raises, unless it keeps the contract; gives the resulting model.

    Checked: name, stage and needs are declared; options survive the way through a recipe where the pass is known by name;
    the given model stays untouched; the result runs, has the same outputs, differs, and is the same when seeded alike; it
    exports to ONNX, where the file agrees with it; it is saved and loaded without a changed number; and a pass that is
    given a task without what it needs is refused before it runs.

    Args:
        model, task: a network to try it on; default a small residual net with data.
    """
    model, task = model or tiny_model(), task or tiny_task()
    assert isinstance(pass_, Pass), "a pass has name, stage, needs and apply(artifact)"
    assert pass_.stage in ORDER, f"stage {pass_.stage!r} is not one of {ORDER}"
    _check_options(pass_)
    _check_needs(pass_, model, task)
    check([pass_], task)
    artifact = Artifact.start(model, task)
    try:
        result = transformed(pass_, artifact, 3, torch.device("cpu")).model
    finally:  # first of all, since a changed reference makes every later check meaningless
        changed = differs(model, artifact.reference)
        assert not changed, "the pass changed the model it was given; it may change artifact.model only"
    again = transformed(pass_, artifact, 3, torch.device("cpu")).model
    assert not differs(result, again), "two runs with the same seed differ; draw random numbers from torch's generator"
    with tempfile.TemporaryDirectory() as folder:
        _check_file(result, artifact, model, Path(folder))
    return result


def _check_options(pass_: Pass) -> None:
    try:
        again = make_pass(pass_.name, options_of(pass_))
    except CompressError as error:
        if "unknown pass" in str(error):  # not registered: usable in Python, not by name
            return
        raise
    assert options_of(again) == options_of(pass_), "options do not survive a recipe"


def _check_needs(pass_: Pass, model: nn.Module, task: Task) -> None:
    for need in pass_.needs:
        assert getattr(task, need, None) is not None, f"needs names '{need}', which the task does not have"
    if pass_.needs:
        try:
            apply(pass_, model, Task(task.example_inputs))
        except CompressError as error:
            assert not isinstance(error, PassError), "a missing need must be told before the pass runs"
        else:
            raise AssertionError("the pass ran on a task without what it needs")


def _check_file(result: nn.Module, artifact: Artifact, model: nn.Module, folder: Path) -> None:
    path, task = folder / "model.onnx", artifact.task
    export_onnx(result, task.example_inputs, path, artifact.signature)
    kind = "int8" if rounds_activations(result) else "fp32"
    check_parity(result, open_onnx(path).predict, task, kind, "the exported file")
    save_model(folder, result, model, {"origin": {"kind": "module"}})
    loaded = load_model(folder, copy.deepcopy(model))
    with torch.no_grad():
        same = torch.equal(first_tensor(loaded(*task.example_inputs)), first_tensor(result(*task.example_inputs)))
    assert same, "the saved and loaded model gives other numbers"
