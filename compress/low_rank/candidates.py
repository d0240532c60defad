"""Which layers of a model can be replaced by two, and why the others cannot."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from compress.layers import is_transposed_linear
from compress.low_rank.modules import KINDS


def candidates(
    model: nn.Module, example_inputs: tuple[Tensor, ...], exclude: Sequence[str] = ()
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """By path, the layers that can be factorised; and the reason for each other convolution and linear layer.

    The model is run once, in eval mode, to see that each layer is called and that nobody reaches into it.

    Raises: whatever the model's forward raises.
    """
    found: dict[str, nn.Module] = {}
    reasons: dict[str, str] = {}
    shared = _shared(model)
    inside = tuple(f"{path}." for path, module in model.named_modules() if type(module) in KINDS.values())
    for path, module in model.named_modules():
        if not (isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or is_transposed_linear(module)):
            continue
        if any(fnmatchcase(path, glob) for glob in exclude):
            reasons[path] = "excluded"
        elif path.startswith(inside):
            reasons[path] = "of low rank already"
        else:
            reason = _unfit(path, module, shared)
            if reason is None:
                found[path] = module
            else:
                reasons[path] = reason
    device = next((parameter.device for parameter in model.parameters()), None)
    with torch.no_grad(), watched(found) as seen:
        model.eval()(*(x.to(device) for x in example_inputs))
    for path, read in seen.items():
        if read != CALLED:
            reasons[path] = f"its {read} is read outside of its own forward" if read else "not called on the example inputs"
            del found[path]
    return found, reasons


def _shared(model: nn.Module) -> set[int]:
    """Ids of the modules and parameters that have several places in the model."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for module in model.modules():
        places.update(id(parameter) for parameter in module._parameters.values() if parameter is not None)
    return {key for key, count in places.items() if count > 1}


def _unfit(path: str, module: nn.Module, shared: set[int]) -> str | None:
    """Why a layer cannot be factorised, as far as can be seen without a forward; None where it can."""
    weight = module._parameters.get("weight")
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "a transposed convolution"
    if getattr(module, "groups", 1) != 1:
        return "a grouped convolution"
    if weight is None or not weight.is_floating_point():
        return "its weight is computed, not stored"
    if type(module) not in (nn.Linear, nn.Conv2d) and not is_transposed_linear(module):
        return f"its type is {type(module).__name__}"
    if not path:
        return "the model itself"
    if {id(module), id(weight), id(module.bias)} & shared:
        return "its weight or bias is shared"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "it has hooks"
    return None


CALLED = "called"  # what `watched` says of a layer that is called and not otherwise touched; no attribute's name


@contextmanager
def watched(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, str]]:
    """Gives by path, filled by the forwards run within: "" for a layer not called, `CALLED`, or the attribute that was read.

    Read, that is, by code outside of the layer's own forward, which would not find it in the module that replaces the layer.
    The layers are of classes of our own meanwhile. Hooks would not do: torch's transformer looks for them, and then leaves
    out the very code that reads weights.
    """
    seen = dict.fromkeys(layers, "")
    kinds = {path: type(layer) for path, layer in layers.items()}
    for path, layer in layers.items():
        layer.__class__ = _watching(path, layer, seen)
    try:
        yield seen
    finally:
        for path, layer in layers.items():
            layer.__class__ = kinds[path]


def _watching(path: str, layer: nn.Module, seen: dict[str, str]) -> type[nn.Module]:
    kind: Any = type(layer)
    own = {"weight", "bias", *(name for name in vars(layer) if not name.startswith("_"))} - {"training"}
    running = 0

    class Watching(kind):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            nonlocal running
            seen[path] = seen[path] or CALLED
            running += 1
            try:
                return super().forward(x)
            finally:
                running -= 1

        def __getattribute__(self, name: str) -> Any:
            if not running and name in own:
                seen[path] = name
            return super().__getattribute__(name)

    return Watching
