"""Which layers may be replaced: what others reach into stays, each with its reason, and looking changes nothing."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from compress.low_rank.candidates import candidates, watched
from compress.low_rank.modules import LowRankLinear
from compress.testing import architectures


class Zoo(nn.Module):
    """Takes (batch, 8); every layer but `free` and `last` has something about it."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Linear(8, 8)
        self.computed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.tied, self.tie = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tie.weight = self.tied.weight
        self.twice = nn.Linear(8, 8)
        self.again = self.twice
        self.hooked = nn.Linear(8, 8)
        self.hooked.register_forward_hook(lambda module, inputs, output: output * 2)
        self.own = type("Own", (nn.Linear,), {})(8, 8)
        self.typed, self.sized, self.unused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.thin = LowRankLinear(8, 8, 2)
        self.line = nn.Conv1d(8, 8, 1)
        self.left = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.twice(self.tie(self.tied(self.computed(self.free(x))))))
        x = self.sized(self.own(self.hooked(x)).to(self.typed.weight.dtype)).view(-1, self.sized.out_features)
        return self.last(self.left(self.line(self.thin(self.typed(x))[:, :, None])[:, :, 0]))


REASONS = {
    "computed": "its weight is computed, not stored",
    "tied": "its weight or bias is shared",
    "tie": "its weight or bias is shared",
    "twice": "its weight or bias is shared",
    "hooked": "it has hooks",
    "own": "its type is Own",
    "typed": "its weight is read outside of its own forward",
    "sized": "its out_features is read outside of its own forward",
    "unused": "not called on the example inputs",
    "thin.reduce": "of low rank already",
    "thin.expand": "of low rank already",
    "line": "its type is Conv1d",
    "left": "excluded",
}


def test_each_layer_that_cannot_be_replaced_says_why() -> None:
    model, x = Zoo().eval(), torch.randn(2, 8)
    expected, kinds = model(x), {path: type(module) for path, module in model.named_modules()}
    found, reasons = candidates(model, (x,), ("left",))
    assert list(found) == ["free", "last"]
    assert reasons == REASONS
    assert {path: type(module) for path, module in model.named_modules()} == kinds
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grouped convolution", {"grouped.0": "a grouped convolution"}),
        ("U-Net", {"up": "a transposed convolution"}),
        ("weight tying", {"encoder": "its weight is read outside of its own forward"}),
        ("GPT-2 (tied head)", {"lm_head": "its weight or bias is shared"}),
        ("fused qkv (as in timm)", {}),
    ],
)
def test_reasons_in_common_architectures(name: str, expected: dict[str, str]) -> None:
    assert candidates(*architectures.build(name))[1] == expected


def test_the_fused_transformer_of_torch_reaches_into_its_layers() -> None:
    """It looks for hooks first, and with any would leave out the code that reads the weights."""
    model, inputs = architectures.build("nn.MultiheadAttention")
    found, reasons = candidates(model, inputs)
    assert list(found) == ["embed", "head"]
    assert set(reasons.values()) == {"its type is NonDynamicallyQuantizableLinear", "its bias is read outside of its own forward"}


def test_the_model_itself_cannot_be_replaced() -> None:
    assert candidates(nn.Linear(4, 4), (torch.randn(2, 4),)) == ({}, {"": "the model itself"})


def test_a_failing_forward_leaves_the_classes() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError), watched({"0": model[0]}):
        model(torch.randn(2, 3))
    assert type(model[0]) is nn.Linear
    copy.deepcopy(model)
