"""Whether a cut network computes what the original does without the channels that went.

The original at full width, in which every layer that reads a cut channel multiplies it by zero, must give the same outputs.
Norms over the cut axis take their statistics over the channels that are left, as those of the cut network do.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = _state(model, dtype)
    kept: dict[int, Tensor] = {}
    reads = {(m.parameter, m.dim) for group, _ in cuts for m in group.members if m.reads}
    for (name, dim), places in removed_places(cuts).items():
        tensor = state[id(named[name])]
        if (name, dim) in reads:
            gone = torch.tensor(sorted(places), device=tensor.device)
            state[id(named[name])] = tensor.index_fill(dim, gone, 0)
        elif tensor.ndim == 1:
            kept[id(tensor)] = torch.tensor([i for i in range(len(tensor)) if i not in places], device=tensor.device)
    with layer_by_layer(), _NormsOverKept(kept), _holding(model, state):
        return tensors(model.eval()(*inputs))


def _state(model: nn.Module, dtype: torch.dtype | None = None) -> dict[int, Tensor]:
    """By the id of each parameter and buffer a tensor of its values, floats in `dtype`; a buffer's may be written to."""

    def kind(x: Tensor) -> torch.dtype:
        return dtype if dtype is not None and x.is_floating_point() else x.dtype

    found = {id(p): p.detach().to(kind(p)) for p in model.parameters()}
    return found | {id(b): b.detach().to(kind(b), copy=True) for b in model.buffers()}


@contextmanager
def _holding(model: nn.Module, state: Mapping[int, Tensor]) -> Iterator[None]:
    """Other tensors in the place of the model's own, which are back afterwards.

    `torch.func.functional_call` does not put a tensor back that one module holds under two paths.
    """
    stores = [store for module in model.modules() for store in (module._parameters, module._buffers)]
    before = [(store, dict(store)) for store in stores]
    recurrent = [(module, module._flat_weights) for module in model.modules() if isinstance(module, nn.RNNBase)]
    try:
        for store, own in before:
            store.update({leaf: state[id(x)] for leaf, x in own.items() if x is not None})  # type: ignore[misc]
        for module, weights in recurrent:  # a second list of the same tensors
            module._flat_weights = [state[id(x)] for x in weights if x is not None]
        yield
    finally:
        for store, own in before:
            store.clear()
            store.update(own)  # type: ignore[arg-type]
        for module, weights in recurrent:
            module._flat_weights = weights


# A right cut differs by rounding alone, 1e-15 in float64; a wrong one by about as much as was cut. Float32 is tried first,
# since it is faster and needs no copies; where its rounding is too coarse to tell, float64 decides.
QUICK, SURE, COARSE = (torch.float32, 1e-5), (torch.float64, 1e-6), (torch.float32, 1e-3)


def complaint(model: nn.Module, cut: nn.Module, cuts: Cuts, example_inputs: tuple[Tensor, ...]) -> str | None:
    """What is wrong with a cut network; None if nothing is."""
    with watched(cut) as path:
        try:
            with torch.no_grad(), _holding(cut, _state(cut)):
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
    if _largest(*(outputs_without(model, [], example_inputs, QUICK[0]) for _ in range(2))) > tolerance:
        return "the forward gives other outputs each time it is called, so that no cut can be verified"
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
    with _holding(cut, _state(cut, dtype)):
        found = tensors(cut.eval()(*inputs))
    return _largest(wanted, found)


def _largest(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Largest difference of two models' outputs, relative to the largest value of that output; infinity for what is no number."""
    worst = 0.0
    for name, x in wanted.items():
        y = found.get(name)
        if y is None or x.shape != y.shape:
            return float("inf")
        if x.numel():
            x, y = x.double(), y.double()
            relative = float((x - y).abs().max() / x.abs().max().clamp_min(1e-30))
            worst = max(worst, relative if relative == relative else float("inf"))
    return worst
