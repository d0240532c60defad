"""Whether a cut network computes what the original does without the channels that went.

The original at full width, in which every layer that reads a cut channel multiplies it by zero, must give the same outputs.
Norms over the cut axis take their statistics over the channels that are left, as those of the cut network do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from compress.outputs import tensors
from compress.pruning.cut import Cuts, removed_places
from compress.pruning.trace import layer_by_layer


class _NormsOverKept(TorchDispatchMode):
    """Layer norm and group norm whose weights are cut: statistics over the kept channels."""

    def __init__(self, kept: dict[int, Tensor]) -> None:
        super().__init__()
        self.kept = kept  # id of the weight -> positions that are left

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        layer = name == "aten::native_layer_norm"
        weight = args[2] if layer else args[1] if name == "aten::native_group_norm" else None
        kept = self.kept.get(id(weight))
        if kept is None or weight is None:
            return func(*args, **(kwargs or {}))
        x, bias = args[0], args[3] if layer else args[2]
        dim = -1 if layer else 1
        narrow = x.index_select(dim, kept)
        if layer:
            done = F.layer_norm(narrow, (len(kept),), weight[kept], None if bias is None else bias[kept], args[4])
        else:
            done = F.group_norm(narrow, args[6], weight[kept], None if bias is None else bias[kept], args[7])
        return torch.zeros_like(x).index_copy_(dim, kept, done), None, None


@torch.no_grad()
def outputs_without(
    model: nn.Module, cuts: Cuts, inputs: tuple[Tensor, ...], dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """The outputs of `model` at full width, as if the units were gone."""
    state = _state(model, dtype)
    kept: dict[int, Tensor] = {}
    reads = {(m.parameter, m.dim) for group, _ in cuts for m in group.members if m.reads}
    for (name, dim), places in removed_places(cuts).items():
        tensor = state[name]
        if (name, dim) in reads:
            gone = torch.tensor(sorted(places), device=tensor.device)
            state[name] = tensor.index_fill(dim, gone, 0)
        elif tensor.ndim == 1:
            kept[id(tensor)] = torch.tensor([i for i in range(len(tensor)) if i not in places], device=tensor.device)
    with layer_by_layer(), _NormsOverKept(kept):
        return tensors(functional_call(model.eval(), state, inputs))


def _state(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Parameters and buffers, those of floats in `dtype`. Shared ones once: `functional_call` knows their other names."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: x.detach().to(dtype) if x.is_floating_point() else x for name, x in named}


# A right cut differs by rounding alone, 1e-15 in float64; a wrong one by about as much as was cut. Float32 is tried first,
# since it is faster and needs no copies; where its rounding is too coarse to tell, float64 decides.
QUICK, SURE, COARSE = (torch.float32, 1e-5), (torch.float64, 1e-6), (torch.float32, 1e-3)


def complaint(model: nn.Module, cut: nn.Module, cuts: Cuts, example_inputs: tuple[Tensor, ...]) -> str | None:
    """What is wrong with a cut network; None if nothing is."""
    with watched(cut) as path:
        try:
            with torch.no_grad():
                outputs = tensors(cut.eval()(*example_inputs))
        except Exception as error:  # a broken model can raise anything
            first = str(error).strip().splitlines() or [type(error).__name__]
            return f"cutting it breaks the forward at '{path[-1]}' ({first[0]})"
    if not all(torch.isfinite(x).all() for x in outputs.values() if x.is_floating_point()):
        return "cutting it leaves NaN or infinity in the outputs"
    if difference(model, cut, cuts, example_inputs, QUICK[0]) <= QUICK[1]:
        return None
    dtype, tolerance = SURE
    try:
        found = difference(model, cut, cuts, example_inputs, dtype)
    except Exception:  # code that was written for float32
        dtype, tolerance = COARSE
        found = difference(model, cut, cuts, example_inputs, dtype)
    if found <= tolerance:
        return None
    return f"the cut network differs from the original without these channels by {found:.1e} of the largest output"


@contextmanager
def watched(model: nn.Module) -> Iterator[list[str]]:
    """The path of the module whose forward was entered last, as the only item of a list."""
    path = [""]

    def watch(name: str) -> Callable[..., None]:
        return lambda *_: path.__setitem__(0, name)

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in model.named_modules()]
    try:
        yield path
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def difference(
    model: nn.Module, cut: nn.Module, cuts: Cuts, example_inputs: tuple[Tensor, ...], dtype: torch.dtype = torch.float64
) -> float:
    """Largest difference between the outputs of the cut network and of the original without the units.

    Relative to the largest value of that output.
    """
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in example_inputs)
    wanted = outputs_without(model, cuts, inputs, dtype)
    found = tensors(functional_call(cut.eval(), _state(cut, dtype), inputs))
    worst = 0.0
    for name, x in wanted.items():
        if name not in found or x.shape != found[name].shape:
            return float("inf")
        worst = max(worst, float((x - found[name]).abs().max() / x.abs().max().clamp_min(1e-30)))
    return worst
