"""The groups of a network: sets of channels that are alike, so that any of them may go.

A unit is what must be cut together; a group is all units that touch the same parameters in the same way. Structural pruning
chooses, for each group, which units go.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
from torch import Tensor, nn

from compress.pruning.trace import Trace, trace


@dataclass(frozen=True)
class Member:
    """What one group takes from one axis of one parameter.

    Attributes:
        parameter: its name in the model.
        dim: the axis.
        places: (units, k) positions on that axis that go with each unit.
        reads: the axis is an input, which a layer sums over; else it is an output, a bias, or a channel of a norm.
    """

    parameter: str
    dim: int
    places: np.ndarray
    reads: bool

    @property
    def layer(self) -> str:
        """Path of the module that holds the parameter."""
        return self.parameter.rpartition(".")[0]


@dataclass(frozen=True)
class Group:
    """Units of one kind.

    Attributes:
        name: the layer that makes the channels; of several that are tied, the first.
        units: how many there are.
        members: where they sit.
        fixed: why none of them may go; None where they may.
        number: 1, 2, ... among the groups of this name: a layer may make several, such as a fused query-key-value layer.
    """

    name: str
    units: int
    members: tuple[Member, ...] = field(repr=False)
    fixed: str | None = None
    number: int = 1

    @property
    def address(self) -> str:
        """A pattern that means this group and no other, such as `layer#2`."""
        return f"{self.name}#{self.number}"

    @property
    def id(self) -> str:
        """The name; of a second group of that name the address."""
        return self.name if self.number == 1 else self.address

    @property
    def width(self) -> int:
        """Channels in a unit: 1, the width of an attention head, or the number of groups that lose a channel at once."""
        makers = [m.places.shape[1] for m in self.members if not m.reads and m.layer == self.name]
        return min(makers, default=min(m.places.shape[1] for m in self.members))

    @property
    def layers(self) -> list[str]:
        """The layers whose outputs are cut."""
        return list(dict.fromkeys(m.layer for m in self.members if not m.reads))


def plan_names(groups: Sequence[Group]) -> dict[str, str]:
    """For each group's id a pattern that means it alone: its name, or its address where the name means others too."""

    def meant(name: str) -> int:
        """How many groups have this layer, or one inside it."""
        return sum(any(f"{layer}.".startswith(f"{name}.") for layer in (group.name, *group.layers)) for group in groups)

    return {group.id: group.name if meant(group.name) == 1 else group.address for group in groups}


def named(layer: str, pattern: str) -> bool:
    """Whether a shell pattern means the layer, or a module that it is inside of."""
    parts = layer.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def find_groups(model: nn.Module, example_inputs: tuple[Tensor, ...], exclude: Sequence[str] = ()) -> list[Group]:
    """All groups, in the order of the model's parameters, those that must stay among them.

    Args:
        exclude: shell patterns of names of layers, or of modules around them, whose outputs are to stay.

    Raises: whatever the model's forward raises.
    """
    traced = trace(model, example_inputs)
    for parameter in traced.parameters.values():
        pattern = next((p for p in exclude if named(parameter.name, p)), None)
        if pattern is not None:
            for dim, axis in enumerate(parameter.axes):
                if parameter.made(dim):
                    traced.units.fix(axis, f"excluded by '{pattern}'")
    return _grouped(traced, _weights_of(model))


def _weights_of(model: nn.Module) -> set[str]:
    """Names of parameters that make channels on their own: with two axes or more, in layers that are no norms."""
    return {name for name, parameter in model.named_parameters(remove_duplicate=True) if parameter.ndim > 1}


def _grouped(traced: Trace, weights: set[str]) -> list[Group]:
    """Units that touch the same axes of the same parameters, equally often, form a group."""
    keys = [(p.name, dim, axis) for p in traced.parameters.values() for dim, axis in enumerate(p.axes) if axis is not None]
    touched: dict[int, list[tuple[int, int]]] = defaultdict(list)  # representative -> (number of the key, positions)
    order: list[tuple[np.ndarray, np.ndarray]] = []  # for each key, positions sorted by representative
    for number, (_, _, axis) in enumerate(keys):
        roots = traced.units.roots(axis)
        found, counts = np.unique(roots, return_counts=True)
        order.append((np.sort(roots), np.argsort(roots, kind="stable")))
        for root, count in zip(found.tolist(), counts.tolist(), strict=True):
            touched[root].append((number, count))
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for root, where in touched.items():
        fixed = traced.units.reason(root)
        signature = (fixed, *(number for number, _ in where)) if fixed else tuple(where)
        alike[signature].append(root)
    groups: list[Group] = []
    for roots_of_group in alike.values():
        where = touched[roots_of_group[0]]
        makers = [name for name, dim, _ in (keys[n] for n, _ in where) if name in weights and traced.parameters[name].made(dim)]
        if not makers:
            continue  # inputs of the model, tables that are looked up: nothing makes these channels
        reason = traced.units.reason(roots_of_group[0])
        members = []
        for number, count in where:
            name, dim, _ = keys[number]
            ordered, positions = order[number]
            count = 1 if reason is not None else count  # units that stay need not be alike: only where they are counts
            starts = np.searchsorted(ordered, np.array(roots_of_group))
            places = positions[starts[:, None] + np.arange(count)].reshape(len(roots_of_group), -1)
            members.append(Member(name, dim, places, dim in traced.parameters[name].reads))
        name = makers[0].rpartition(".")[0] or makers[0]
        number = 1 + sum(group.name == name for group in groups)
        groups.append(Group(name, len(roots_of_group), tuple(members), reason, number))
    return groups
