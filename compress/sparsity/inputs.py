"""What layers read on calibration data: the norm of every input, and how inputs go together."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.sparsity.layers import Layer

Batches = Iterable[tuple[Tensor, ...]]


class Enough(Exception):
    """Raised while watching, to leave a forward that has nothing more to show."""


@torch.no_grad()
def watch_inputs(model: nn.Module, layers: Sequence[Layer], batches: Batches, see: Callable[[Layer, Tensor], None]) -> None:
    """Run the model on `batches` of inputs, in eval mode, and show `see` every input of the layers.

    The model is left in the modes it was in: a schedule calls this in the middle of training. `see` may raise `Enough` to go
    on with the next batch.

    Raises:
        UserError: there is no batch.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]

    def hook_for(layer: Layer) -> Callable[..., None]:
        return lambda _module, inputs: see(layer, inputs[0].detach())

    hooks = [layer.module.register_forward_pre_hook(hook_for(layer)) for layer in layers]
    try:
        model.eval()
        found = False
        for batch in batches:
            found = True
            with suppress(Enough):
                model(*(x.to(device) for x in batch))
        if not found:
            raise UserError("the calibration data have no batch, so that no layer's inputs were seen")
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training


def _finite(layer: Layer, values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise UserError(f"calibration met a NaN or an infinity in the input of '{layer.name}'; check the model and its input")
    return values


def input_norms(model: nn.Module, layers: Sequence[Layer], batches: Batches) -> dict[str, Tensor]:
    """Layer name -> the Euclidean norm, over all samples, of what each column meets: (groups, columns).

    A layer that the forward never calls has no entry.

    Raises:
        UserError: there is no batch; or a norm is not finite, with the layer's name.
    """
    squares: dict[str, Tensor] = {}

    def see(layer: Layer, x: Tensor) -> None:
        # Squares are summed over the batch before they are unfolded, which copies each of them once per kernel position.
        together = x.float().square().sum(0, keepdim=True) if layer.is_batch(x) else x.float().square()
        for part in layer.columns(together):
            squares[layer.name] = squares.get(layer.name, 0) + part.sum(1)

    watch_inputs(model, layers, batches, see)
    return {layer.name: _finite(layer, squares[layer.name]).sqrt() for layer in layers if layer.name in squares}


def input_products(model: nn.Module, layer: Layer, batches: Batches) -> Tensor | None:
    """X^T X of one layer's inputs X (samples, columns), a matrix for each group: (groups, columns, columns) in float32.

    Half the Hessian of the layer's squared output error. None if the forward never calls the layer.

    Raises:
        UserError: there is no batch; or a product is not finite, with the layer's name.
    """
    total: list[Tensor] = []
    calls, calls_before, whole = 0, 0, 0  # the first batch runs to the end and tells how often a forward calls the layer

    def watched(batches: Batches) -> Batches:
        nonlocal calls_before, whole
        for position, batch in enumerate(batches):
            whole = calls if position == 1 else whole
            calls_before = calls
            yield batch

    def see(layer: Layer, x: Tensor) -> None:
        nonlocal calls
        for part in layer.columns(x):
            if not total:
                total.append(part.new_zeros(len(part), part.shape[2], part.shape[2]))
            total[0].baddbmm_(part.transpose(1, 2), part)
        calls += 1
        if calls - calls_before == whole:
            raise Enough

    watch_inputs(model, [layer], watched(batches), see)
    return _finite(layer, total[0]) if total else None


def called(model: nn.Module, layers: Sequence[Layer], example_inputs: tuple[Tensor, ...]) -> list[Layer]:
    """The layers that a forward calls, in the order of their first call."""
    order: list[Layer] = []

    def see(layer: Layer, _x: Tensor) -> None:
        if layer not in order:
            order.append(layer)

    watch_inputs(model, layers, [example_inputs], see)
    return order
