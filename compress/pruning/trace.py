"""Following every channel of a network through one forward pass, operator by operator.

Each tensor carries an axis of atoms (`units.Axis`) for each of its dimensions. A parameter gets fresh ones; `rules` say what
each operator makes of them. An operator without a rule fixes all that goes into it: such layers stay whole, with the
operator's name as the reason, rather than being cut in a way that nobody checked.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compress.outputs import tensors
from compress.pruning.units import Axis, Units

Axes = tuple[Axis, ...]


@dataclass
class Parameter:
    """A parameter or buffer: its axes, which of them some operator sums over (`reads`), such as a layer's inputs, and which
    are a layer's outputs (`makes`); where a weight is used twice, an axis may be both."""

    name: str
    tensor: Tensor
    axes: tuple[Any, ...]
    reads: set[int]
    makes: set[int] = field(default_factory=set)
    used: bool = False

    def made(self, dim: int) -> bool:
        """Whether the axis gives channels, be it beside reading them."""
        return dim not in self.reads or dim in self.makes


class Trace(TorchDispatchMode):
    """Records what the operators of one forward do to the axes.

    Attributes:
        units: what is tied and what is fixed.
        parameters: by name; tied ones once, under their first name.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.units = Units()
        self.parameters: dict[str, Parameter] = {}
        self._axes: dict[int, Axes] = {}
        self._alive: list[Tensor] = []  # an id is unique only as long as its tensor lives
        self._origin: dict[int, tuple[Parameter, ...]] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            axes = tuple(self.units.new(size) if size > 1 else None for size in tensor.shape)
            self.parameters[name] = Parameter(name, tensor, axes, set())
            self._origin[id(tensor)] = (self.parameters[name],)
            self.set(tensor, axes)

    def axes(self, tensor: Any) -> Axes:
        """The axes of a tensor, one per dimension; all None for anything that is no known tensor."""
        found = self._axes.get(id(tensor))
        return found if found is not None else (None,) * getattr(tensor, "ndim", 0)

    def set(self, tensor: Tensor, axes: Iterable[Axis]) -> None:
        """Give a tensor its axes. One of another length than the tensor's must stay: that its rule did not foresee."""
        known: list[Axis] = []
        for axis, size in zip(axes, tensor.shape, strict=True):
            if axis is not None and len(axis) != size:
                self.units.fix(axis, "its length is changed")
                axis = None
            known.append(None if size == 1 else axis)
        self._axes[id(tensor)] = tuple(known)
        self._alive.append(tensor)

    def is_weight(self, tensor: Any) -> bool:
        """Whether the tensor is a parameter, or made from parameters alone."""
        return id(tensor) in self._origin

    def reads(self, tensor: Any, axis: Axis) -> None:
        """Remember that a layer sums over this axis of a tensor made from parameters."""
        for parameter, position in self._positions(tensor, axis):
            parameter.reads.add(position)

    def makes(self, tensor: Any, axis: Axis) -> None:
        """Remember that this axis of a tensor made from parameters is a layer's outputs."""
        for parameter, position in self._positions(tensor, axis):
            parameter.makes.add(position)

    def _positions(self, tensor: Any, axis: Axis) -> Iterator[tuple[Parameter, int]]:
        """The parameters that a tensor was made from, with those of their axes that this axis came from."""
        wanted = set() if axis is None else set(axis.ravel().tolist())
        for parameter in self._origin.get(id(tensor), ()):
            for position, own in enumerate(parameter.axes):
                if own is not None and not wanted.isdisjoint(own.tolist()):
                    yield parameter, position

    def contract(self, one: Axis, other: Axis, reason: str) -> None:
        """Two axes are multiplied and summed away: tied; if only one is known, it must stay."""
        self.same((one, other), reason)

    def same(self, axes: Iterable[Axis], reason: str) -> Axis:
        """Axes of one size that run along each other; all are tied, or fixed where the length of one is not known to shrink."""
        axes = list(axes)
        known = [axis for axis in axes if axis is not None]
        if not known:
            return None
        first = known[0]
        for other in known[1:]:
            if other is not first:
                self.units.tie(first, other)
        if len(known) < len(axes):
            self.units.fix(first, reason)
        return first

    def fix_all(self, values: Any, reason: str) -> None:
        """Everything in these arguments must stay."""
        for tensor in tree_leaves(values):
            for axis in self.axes(tensor) if isinstance(tensor, Tensor) else ():
                self.units.fix(axis, reason)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from compress.pruning.rules import apply_rule

        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in inputs:
            for parameter in self._origin.get(id(tensor), ()):
                parameter.used = True
        self._alive.extend(outputs)
        if any(axis is not None for tensor in inputs for axis in self.axes(tensor)):
            apply_rule(self, func, out, args, kwargs)
        if inputs and all(self.is_weight(tensor) for tensor in inputs):
            origin = tuple({id(p): p for tensor in inputs for p in self._origin[id(tensor)]}.values())
            for tensor in outputs:
                self._origin.setdefault(id(tensor), origin)
        return out


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """No fused operator hides the layers inside torch's own transformer."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def trace(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Trace:
    """Run the model once in eval mode and follow its channels; the outputs' axes are fixed.

    Raises: whatever the model's forward raises.
    """
    tracer = Trace(model)
    with torch.no_grad(), layer_by_layer(), tracer:
        output = model.eval()(*example_inputs)
    for tensor in tensors(output).values():
        tracer.fix_all(tensor, "an output of the model")
    for parameter in tracer.parameters.values():
        if not parameter.used:
            tracer.fix_all(parameter.tensor, "not used on the example inputs")
    _tie_torch_attention(model, tracer)
    tracer.units.resolve()
    return tracer


def _tie_torch_attention(model: nn.Module, tracer: Trace) -> None:
    """`nn.MultiheadAttention` wants its heads together as wide as the stream it reads: a head goes with a part of the stream."""
    by_tensor = {id(parameter.tensor): parameter.axes for parameter in tracer.parameters.values()}
    for module in model.modules():
        if not isinstance(module, nn.MultiheadAttention):
            continue
        if module.in_proj_weight is None:
            tracer.fix_all(list(module.parameters()), "nn.MultiheadAttention with keys or values of another width")
            continue
        made, read = by_tensor[id(module.in_proj_weight)]
        heads = made.reshape(3, module.num_heads, module.head_dim)
        tracer.units.tie(heads, heads[:1, :, :1])
        tracer.units.tie(read.reshape(module.num_heads, -1), heads[0, :, :1])
