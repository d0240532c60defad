"""Networks whose forward writes into its tensors: the same numbers as without, through every method."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compress.passes.int8 import Int8
from compress.pipeline import apply
from compress.quant import qat
from compress.quant.ptq import folded, prepare
from compress.quant.scheme import Scheme
from compress.task import Task


class Residual(nn.Module):
    """torchvision's way of writing a residual network, beside one without writes."""

    def __init__(self, *, writes: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.writes = writes

    def forward(self, x: Tensor) -> Tensor:
        if self.writes:
            x = x.clone().sub_(0.5).mul_(2.0)
            out = self.b(torch.relu_(self.a(x)))
            out += x
            return self.c(torch.relu_(out))
        x = (x - 0.5) * 2.0
        return self.c(torch.relu(self.b(torch.relu(self.a(x))) + x))


def images() -> Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def quantized(**options: object) -> list[Tensor]:
    """What the two networks give after the pass."""
    task = Task((images()[:2],), calibration=lambda: [(images(),)])
    both = (Residual(writes=writes).eval() for writes in (True, False))
    return [apply(Int8(**options), model, task)(images()).detach() for model in both]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"ranges": "auto"}, {"bias_correction": True}, {"weight_bits": 4, "rounding": "adaround", "rounding_steps": 5}],
    ids=["auto", "bias correction", "adaround"],
)
def test_writes_change_nothing(options: dict[str, object]) -> None:
    with_writes, without = quantized(**options)
    assert torch.allclose(with_writes, without, atol=1e-5)


def test_a_network_that_writes_can_be_trained() -> None:
    net = qat.prepare(Residual(writes=True), (images()[:2],), calibration=lambda: [(images(),)])
    net(images()).square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)


def in_a_view(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0].add_(1.0)
    return x * 2


def seen_by_a_view(x: Tensor) -> Tensor:
    x = x.clone()
    first = x[:, 0]
    x.add_(1.0)
    return first + x[:, 1]


@pytest.mark.parametrize("forward", [in_a_view, seen_by_a_view])
def test_writes_that_others_see_stay(forward: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x)

    assert torch.equal(folded(Net(), (images(),))(images()), forward(images()))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))


def test_a_tied_layer_that_is_excluded_reads_the_weight_as_it_is() -> None:
    graph_module, placement = prepare(Tied(), (torch.randint(9, (2, 3)),), Scheme(("head",)))
    reads = {node.name: [str(read) for read in node.all_input_nodes] for node in graph_module.graph.nodes}
    assert placement.left_in_float == {"head": "left in float by option"}
    assert reads["linear"] == ["embedding", "head_weight"] or reads["linear"] == ["embedding", "table_weight"]
    assert reads["embedding"][0].startswith("quantizers_")


def test_a_layer_that_reads_a_parameter_stays_float() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.key, self.head = nn.Parameter(torch.randn(5, 4)), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x @ self.key(self.queries).t() @ self.queries)

    task = Task((torch.randn(3, 4),), calibration=lambda: [(torch.randn(8, 4),)])
    done = apply(Int8(bias_correction=True), Queries().eval(), task)
    assert done.meta["quantization"]["left_in_float"] == {"key": "it reads a parameter, not an activation"}  # type: ignore[index, operator]
