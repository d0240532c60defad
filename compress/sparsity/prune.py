"""A model's weights to a sparsity, by any of the methods."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from compress.errors import PassError, UserError
from compress.sparsity.inputs import input_norms, input_products
from compress.sparsity.layers import Layer
from compress.sparsity.magnitude import global_magnitude_masks, magnitude_mask
from compress.sparsity.masks import mark_sparse_
from compress.sparsity.patterns import Blocks, Pattern
from compress.sparsity.sparsegpt import sparsegpt
from compress.sparsity.wanda import wanda_mask

METHODS = ("magnitude", "wanda", "sparsegpt")


@dataclass(frozen=True)
class Settings:
    """How weights are chosen.

    Args:
        method: `magnitude`, `wanda` or `sparsegpt`.
        pattern: N:M goes with every method, blocks with the first two.
        together: under `magnitude` with blocks, one threshold for all layers instead of one for each.
        batches: batches of inputs, anew on each call; needed by all but `magnitude`.
    """

    method: str
    pattern: Pattern
    together: bool = False
    batches: Callable[[], Iterable[tuple[Tensor, ...]]] | None = None


def prune_weights_(model: nn.Module, layers: Sequence[Layer], sparsity: float, settings: Settings) -> None:
    """Write zeros into the weights of `layers`, in place, and mark the layers as sparse.

    Weights that are zero already are among the first to stay so: pruning again to a higher sparsity goes on from there.
    Wanda reads the inputs of the network as it was; SparseGPT goes from the first layer called to the last, and each sees
    the inputs that the sparse layers before it give.

    Args:
        layers: in the order of their calls; the forward calls each of them unless `method` is `magnitude`.
        sparsity: share of these weights that become zero, in [0, 1].

    Raises:
        PassError: nothing would be left of a layer.
        UserError: the method looks at inputs, and there are no batches of them.
    """
    pattern, batches = settings.pattern, settings.batches
    if settings.method != "magnitude" and batches is None:
        raise UserError(f"method {settings.method} looks at the layers' inputs; give batches")
    if settings.method == "sparsegpt":
        assert batches is not None
        for layer in layers:
            products = input_products(model, layer, batches())
            assert products is not None
            _write_(layer, sparsegpt(layer.matrix(), products, pattern, sparsity))
        return
    matrices = [layer.matrix() for layer in layers]
    if settings.method == "wanda":
        assert batches is not None
        norms = input_norms(model, layers, batches())
        masks = [wanda_mask(w, norms[layer.name], pattern, sparsity) for w, layer in zip(matrices, layers, strict=True)]
    elif settings.together:
        assert isinstance(pattern, Blocks)
        masks = global_magnitude_masks(matrices, pattern, sparsity)
    else:
        masks = [magnitude_mask(matrix, pattern, sparsity) for matrix in matrices]
    for layer, matrix, mask in zip(layers, matrices, masks, strict=True):
        _write_(layer, matrix.masked_fill(~mask, 0))  # not a product, which would leave negative zeros


def _write_(layer: Layer, matrix: Tensor) -> None:
    if not matrix.any() and layer.weight.any():
        raise PassError(f"nothing would be left of '{layer.name}'; lower the sparsity, or exclude the layer")
    layer.write_(matrix)
    mark_sparse_(layer.module)
