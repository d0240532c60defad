"""How many units each group keeps, and which: by score within a group, over all groups, or over groups of one kind."""

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from compress.pruning.groups import Group

RANKINGS = ("local", "global", "isomorphic")


def kept_units(
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    ratio: float,
    *,
    ranking: str = "local",
    round_to: int = 8,
    floor: float = 0.1,
    ratios: Mapping[str, float] | None = None,
    stagger: bool = False,
    kind: Callable[[Group], object] = lambda group: None,
) -> list[list[int]]:
    """For each group the units that stay, in order.

    Args:
        ratio: share of the units to remove, in [0, 1).
        ranking: `local`: that share of every group; `global`: the least important of all groups together, scores divided by
            their group's mean; `isomorphic`: the same within groups of one `kind` (Fang et al. 2024, "Isomorphic Pruning for
            Vision Models", section 3.2).
        round_to: the channels that stay are the nearest multiple of this, and at least this.
        floor: least share of a group's units that stays under `global` and `isomorphic`.
        ratios: shell pattern of layer names -> ratio, instead of `ratio`; the last pattern that matches counts.
        stagger: groups round at different places instead of half way, so that a growing ratio narrows them one by one and a
            budget can be met more closely.
    """
    wanted = [_own_ratio(group, ratio, ratios or {}) for group in groups]
    if ranking == "local":
        counts = [
            group.units * (1 - (share if share is not None else ratio)) for group, share in zip(groups, wanted, strict=True)
        ]
    else:
        counts = _ranked_together(groups, scores, ratio, wanted, floor, kind if ranking == "isomorphic" else lambda group: None)
    kept = []
    for number, (group, score, count) in enumerate(zip(groups, scores, counts, strict=True), 1):
        kept.append(_best(score, _rounded(group, count, round_to, _spread(number) if stagger else 0.5)))
    return kept


def _spread(number: int) -> float:
    """The numbers 1, 2, 3, ... spread over (0, 1): a half, a quarter, three quarters, ... (van der Corput's sequence)."""
    place, found = 0.5, 0.0
    while number:
        number, bit = divmod(number, 2)
        found += place * bit
        place /= 2
    return found


def _own_ratio(group: Group, ratio: float, ratios: Mapping[str, float]) -> float | None:
    found = None
    for pattern, own in ratios.items():
        if any(fnmatchcase(layer, pattern) for layer in (group.name, *group.layers)):
            found = own
    return found


def _ranked_together(
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    ratio: float,
    wanted: Sequence[float | None],
    floor: float,
    kind: Callable[[Group], object],
) -> list[float]:
    """Units that each group keeps when one threshold decides for all groups of a kind.

    The floor really holds: what it saves in one group is taken from the others.
    """
    kinds: dict[object, list[int]] = {}
    counts = [0.0] * len(groups)
    for position, (group, own) in enumerate(zip(groups, wanted, strict=True)):
        if own is None:
            kinds.setdefault(kind(group), []).append(position)
        else:
            counts[position] = group.units * (1 - own)
    for members in kinds.values():
        pairs: list[tuple[float, int]] = []
        for position in members:
            normalized = scores[position] / scores[position].mean().clamp_min(torch.finfo(torch.float32).tiny)
            ordered = normalized.sort(descending=True).values
            least = max(1, math.ceil(groups[position].units * floor))
            counts[position] = least
            pairs.extend((float(score), position) for score in ordered[least:])
        total = sum(groups[position].units for position in members)
        pairs.sort(key=lambda pair: -pair[0])  # of equal scores the first group's
        for _, position in pairs[: max(0, round(total * (1 - ratio)) - round(sum(counts[p] for p in members)))]:
            counts[position] += 1
    return counts


def _rounded(group: Group, count: float, round_to: int, place: float = 0.5) -> int:
    """The nearest number of units whose channels are a multiple of `round_to`; half way, the smaller one.

    With another `place` than 0.5 the rounding changes there, on the way from one multiple to the next.

    A group that loses nothing keeps its width, whatever that is.
    """
    step = round_to // math.gcd(round_to, group.width)
    if group.units <= step or count >= group.units:
        return group.units
    return min(group.units, step * max(1, math.ceil(count / step - place)))


def _best(score: Tensor, count: int) -> list[int]:
    """Positions of the `count` largest; of equal ones the first."""
    order = torch.argsort(score, descending=True, stable=True)
    return sorted(order[:count].tolist())


def isomorphic_kind(model: nn.Module) -> Callable[[Group], object]:
    """Groups are of one kind if the layers they cut, and how, are of the same types."""
    modules = dict(model.named_modules())

    def kind(group: Group) -> object:
        return frozenset((type(modules[m.layer]).__name__, m.reads, m.dim, m.places.shape[1]) for m in group.members)

    return kind
