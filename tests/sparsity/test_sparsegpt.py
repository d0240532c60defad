"""SparseGPT against the algorithm spelt out row by row, and against magnitude where it must win or must agree."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.sparsity.inputs import input_products
from compress.sparsity.layers import Layer
from compress.sparsity.magnitude import magnitude_mask
from compress.sparsity.patterns import Blocks, NOfM, Pattern
from compress.sparsity.sparsegpt import inverse_factor, sparsegpt


def correlated(samples: int, columns: int) -> Tensor:
    """Inputs that are mixtures of a few causes, and some noise."""
    return torch.randn(samples, columns // 4) @ torch.randn(columns // 4, columns) + 0.3 * torch.randn(samples, columns)


def error(wanted: Tensor, found: Tensor, x: Tensor) -> float:
    return float((x @ (wanted - found).T).square().sum())


@pytest.mark.parametrize(
    ("pattern", "sparsity", "share"),
    [(Blocks(), 0.5, 0.4), (Blocks(), 0.8, 0.9), (NOfM(2, 4), 0.5, 0.4), (NOfM(1, 4), 0.75, 0.6)],
)
def test_the_outputs_error_is_below_magnitudes(pattern: Pattern, sparsity: float, share: float) -> None:
    x, w = correlated(2000, 160), torch.randn(24, 160)
    found = sparsegpt(w, (x.T @ x)[None], pattern, sparsity)
    assert (found == 0).float().mean() == pytest.approx(sparsity, abs=0.01)
    assert error(w, found, x) < share * error(w, w * magnitude_mask(w, pattern, sparsity), x)


def test_the_compensation_is_what_helps_beyond_the_choice() -> None:
    x, w = correlated(2000, 64), torch.randn(24, 64)
    found = sparsegpt(w, (x.T @ x)[None], Blocks(), 0.5)
    assert error(w, found, x) < 0.5 * error(w, w * (found != 0), x)


@pytest.mark.parametrize("pattern", [Blocks(), NOfM(2, 4), NOfM(1, 3)])
def test_inputs_that_do_not_go_together_leave_magnitude(pattern: Pattern) -> None:
    w = torch.randn(10, 96)
    sparsity = 0.5 if isinstance(pattern, Blocks) else 1 - pattern.n / pattern.m
    found = sparsegpt(w, torch.eye(96)[None], pattern, sparsity)
    assert torch.equal(found, w * magnitude_mask(w, pattern, sparsity))
    assert torch.equal(sparsegpt(w, torch.zeros(1, 96, 96), pattern, sparsity), found)  # inputs that were always zero


def spelt_out(w: Tensor, products: Tensor, n: int, m: int) -> Tensor:
    """N:M, one output and one column at a time: the inverse Hessian of the columns that are left, by the definition.

    Frantar and Alistarh 2023, section 3: of what is left, with inverse Hessian C, weight 0 falls at the cost of
    w_0^2 / C_00, and the others become w - w_0 / C_00 * C_0. The cost of the later ones in the group is judged by the
    inverse Hessian of those columns that follow them.
    """
    columns = len(products)
    damped = products.double() + 0.01 * products.double().diagonal().mean() * torch.eye(columns)
    inverses = [torch.linalg.inv(damped[j:, j:]) for j in range(columns)]
    result = w.double().clone()
    for row in result:
        for start in range(0, columns, m):
            cost = torch.stack([row[j] ** 2 / inverses[j][0, 0] for j in range(start, start + m)])
            for j in (start + cost.argsort()[: m - n]).sort().values.tolist():
                row[j:] -= row[j] / inverses[j][0, 0] * inverses[j][0]
                row[j] = 0
    return result


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3)])
def test_columns_one_by_one_give_the_same(n: int, m: int) -> None:
    x, w = correlated(500, 24), torch.randn(5, 24)
    products = x.T @ x
    found = sparsegpt(w, products[None], NOfM(n, m), 1 - n / m)
    assert torch.allclose(found.double(), spelt_out(w, products, n, m), atol=1e-4)


def test_corrections_reach_beyond_the_columns_worked_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = correlated(800, 48), torch.randn(5, 48)
    whole = sparsegpt(w, (x.T @ x)[None], NOfM(2, 4), 0.5)
    monkeypatch.setattr("compress.sparsity.sparsegpt.COLUMNS", 8)
    assert torch.allclose(sparsegpt(w, (x.T @ x)[None], NOfM(2, 4), 0.5), whole, atol=1e-4)


def test_the_factor_is_that_of_the_inverse() -> None:
    x = torch.randn(2, 50, 12, dtype=torch.float64)
    products = x.transpose(1, 2) @ x
    mean = products.diagonal(dim1=1, dim2=2).mean(1)
    inverse = torch.linalg.inv(products + 0.01 * mean[:, None, None] * torch.eye(12))
    upper = inverse_factor(products)
    assert torch.allclose(upper, upper.triu())
    assert torch.allclose(upper.transpose(1, 2) @ upper, inverse)
    assert torch.allclose(upper, torch.linalg.cholesky(inverse, upper=True))


def test_damping_rises_until_there_is_a_factor() -> None:
    broken = torch.tensor([[[1.0, 1.05], [1.05, 1.0]]])  # not positive: rounding can do that to nearly dependent inputs
    upper = inverse_factor(broken)
    assert torch.allclose(upper.transpose(1, 2) @ upper, torch.linalg.inv(broken.double() + 0.1 * torch.eye(2)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_is_pruned_as_its_unfolded_matrix(groups: int) -> None:
    conv, batches = nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=groups), [torch.randn(6, 4, 9, 9).cumsum(3) for _ in range(2)]
    layer = Layer("conv", conv)
    products = input_products(conv, layer, [(x,) for x in batches])
    found = sparsegpt(layer.matrix(), products, Blocks(), 0.5)
    # Of each group a linear layer on torch's own windows, whose columns have the channels outside.
    windows = F.unfold(torch.cat(batches), 3, padding=1, stride=2)  # (batch, channels * 9, pixels)
    windows = windows.view(12, groups, 4 // groups, 9, -1).permute(1, 0, 4, 3, 2).flatten(3).flatten(1, 2)
    assert torch.allclose(products, windows.transpose(1, 2) @ windows, rtol=1e-4, atol=1e-2)
    dense = layer.matrix().clone()
    layer.write_(found)
    wanted = F.conv2d(torch.cat(batches), conv.weight, conv.bias, 2, 1, 1, groups)
    by_matrix = torch.cat([windows[g] @ found.chunk(groups)[g].T for g in range(groups)], 1) + conv.bias
    assert torch.allclose(wanted.movedim(1, -1).flatten(0, 2), by_matrix, atol=1e-4)
    plain = dense * magnitude_mask(dense, Blocks(), 0.5)
    lost = [
        sum(error(dense.chunk(groups)[g], pruned.chunk(groups)[g], windows[g]) for g in range(groups))
        for pruned in (found, plain)
    ]
    assert lost[0] < (0.9 if groups == 4 else 0.7) * lost[1]  # nine columns alone can make up for less


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.after = nn.Linear(4, 4), nn.Linear(4, 4)
        self.ends = 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.after(self.layer(self.layer(x)))
        self.ends += 1
        return y


def test_products_are_over_all_calls_and_the_rest_of_the_forward_is_spared() -> None:
    model, batches = CalledTwice(), [torch.randn(5, 4) for _ in range(3)]
    found = input_products(model, Layer("layer", model.layer), [(x,) for x in batches])
    x = torch.cat(batches)
    both = torch.cat([x, model.layer(x)])
    assert torch.allclose(found, (both.T @ both)[None], atol=1e-4)
    assert model.ends == 1  # the first batch tells how often the layer is called
    assert input_products(model, Layer("idle", nn.Linear(4, 4)), [(x,)]) is None
