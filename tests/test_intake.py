"""The model that somebody gives stays as it was, or is refused with what would help."""

import copy
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compress
from compress.errors import UserError
from compress.intake import own_copy
from compress.passes.int8 import Int8
from compress.passes.prune_channels import PruneChannels
from compress.sensitivity import sensitivity
from compress.testing import tiny_model, tiny_task


class Counting(nn.Module):
    """Counts its calls in a buffer, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Linear(16, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("what", ["apply", "plan", "sensitivity"])
def test_neither_weights_nor_buffers_nor_the_mode_change(what: str) -> None:
    model, x = Counting().train(), torch.randn(4, 3, 4, 4)
    before = copy.deepcopy(model.state_dict())
    task = compress.Task((x,))
    if what == "apply":
        compress.apply(PruneChannels(), model, task)
    elif what == "plan":
        compress.plan(model, task, PruneChannels())
    else:
        sensitivity(model, task, timing={"min_runs": 1, "min_seconds": 0.0})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("cannot pickle 'a file'")


def broken() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(model[0].bias, float("nan"))
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.DataParallel(nn.Linear(2, 2)), "the model is wrapped in DataParallel; give the one inside: model.module"),
        (
            lambda: torch.compile(nn.Linear(2, 2)),
            "the model was compiled by torch.compile; give the one that was compiled: model._orig_mod",
        ),
        (
            lambda: torch.jit.load(_scripted()),
            "a TorchScript module cannot be changed; give the nn.Module that it was made from",
        ),
        (lambda: nn.Sequential(nn.ReLU()), "Sequential has no parameters: there is nothing to compress"),
        (broken, "the weight '0.bias' holds NaN or infinity; a model must work before it can be compressed"),
        (
            lambda: Uncopyable(2, 2),
            "Uncopyable cannot be copied by copy.deepcopy, which is how yours stays unchanged (cannot pickle 'a file')",
        ),
    ],
)
def test_what_cannot_be_taken_is_told(model: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        own_copy(model())  # type: ignore[operator]
    assert str(error.value) == message


def _scripted() -> io.BytesIO:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.randn(1, 2)), file)
    file.seek(0)
    return file


def test_a_copy_is_in_eval_mode_and_shares_nothing() -> None:
    model = Counting().train()
    own = own_copy(model)
    assert not own.training
    assert not {id(p) for p in own.parameters()} & {id(p) for p in model.parameters()}


class Branches(nn.Module):
    """Its forward depends on values: it can be run, and not captured."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head(self.second(x).relu() if x.shape[0] + float(x.detach().sum()) > 0 else x)


def test_a_forward_that_cannot_be_captured_can_be_pruned_and_not_quantized() -> None:
    task = compress.Task((torch.randn(8, 4),), calibration=lambda: [(torch.randn(8, 4),)])
    cut = compress.apply(PruneChannels(), Branches(), task)
    assert cut.second.in_features + cut.second.out_features < 32
    planned = compress.plan(Branches(), task, PruneChannels())
    assert planned.size_bytes == (None, None)
    with pytest.raises(UserError, match=r"^Branches cannot be captured by torch\.export: "):
        compress.apply(compress.passes.int8.Int8(), Branches(), task)


def test_an_input_without_a_batch_is_told() -> None:
    with pytest.raises(UserError) as error:
        compress.apply(PruneChannels(), TwoInputs(), compress.Task((torch.randn(2, 4), torch.tensor(1.0))))
    assert str(error.value) == "example input 2 is a single number; the first axis of every input is the batch"


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.layer(x) * scale


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_a_run_takes_float32_alone_and_says_so_before_it_begins(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        compress.run(tiny_model().to(getattr(torch, kind)), tiny_task(), [Int8()], out=tmp_path / "run")
    assert str(error.value) == (
        f"the weight 'stem.weight' is {kind}, and ONNX Runtime on the CPU computes in float32; give model.float() and inputs in "
        "float32 (fp16 writes a file in half precision beside the others)"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda: nn.LazyLinear(4),
            "the weight '0.weight' has no shape yet; call the model once on an example before it is compressed",
        ),
        (
            lambda: nn.Linear(4, 4, device="meta"),
            "the weight '0.weight' is on the device 'meta' and holds no numbers; load the weights first",
        ),
    ],
)
def test_weights_that_are_not_there_yet_are_told(layer: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UserError) as error:
        own_copy(nn.Sequential(layer()))
    assert str(error.value) == message
