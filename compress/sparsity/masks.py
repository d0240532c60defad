"""Zeros that stay: which layers were made sparse on purpose, and holding their zeros through any later training.

A sparse layer carries the plain attribute `sparse_weight = True`. It is copied with the module, and the store writes it
into the manifest like any attribute in which a model differs from its architecture. Which weights are zero is not written
twice: the weights say so. Zeros elsewhere (a batch norm scale that starts at zero, an embedding's padding row) are no mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

SPARSE = "sparse_weight"


def mark_sparse_(module: nn.Module) -> None:
    """Say, in place, that the zeros in a module's `weight` are there on purpose."""
    setattr(module, SPARSE, True)


def sparse_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights whose zeros are there on purpose, by name."""
    return {
        f"{path}.weight" if path else "weight": module.weight
        for path, module in model.named_modules()
        if getattr(module, SPARSE, False) is True and isinstance(module._parameters.get("weight"), Tensor)
    }


class Zeros:
    """The zeros that are held; `renew` where more were written meanwhile."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.renew()

    def renew(self) -> None:
        """Hold every weight of a sparse layer that is zero now."""
        self.weights = list(sparse_weights(self.model).values())
        self.masks = [weight == 0 for weight in self.weights]

    @torch.no_grad()
    def write_(self) -> None:
        """Set what is held to zero again, in place."""
        for weight, mask in zip(self.weights, self.masks, strict=True):
            weight.masked_fill_(mask, 0)  # a product would leave negative zeros, whose signs are noise in a compressed file


@contextmanager
def keep_zeros(model: nn.Module) -> Iterator[Zeros]:
    """Hold the zeros of the sparse layers within: they are written again after every step of any optimizer.

    Momentum and weight decay go on as they would; only the weights are held. A model without sparse layers costs nothing.
    Move the model to its device before, not within.

    with keep_zeros(model):
        train(model)
    """
    zeros = Zeros(model)
    # A hook on all optimizers: the loop need not know, so that a loop of somebody else holds the zeros, too.
    hook = register_optimizer_step_post_hook(lambda *_: zeros.write_())
    try:
        yield zeros
    finally:
        hook.remove()
