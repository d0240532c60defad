"""How many units each group keeps, and which: by score within a group, over all groups, or over groups of one kind."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.pruning.groups import Group, Member, named

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
    comparable: bool = False,
    kind: Callable[[Group], object] = lambda group: None,
    wholes: Sequence[int] | None = None,
) -> list[list[int]]:
    """For each group the units that stay, in order.

    Args:
        ratio: share of the units to remove, in [0, 1).
        ranking: `local`: that share of every group; `global`: the least important of all groups together; `isomorphic`: the
            same within groups of one `kind` (Fang et al. 2024, "Isomorphic Pruning for Vision Models", section 3.2).
        round_to: the channels that stay are the nearest multiple of this, and at least this.
        floor: least share of a group's units that stays under `global` and `isomorphic`, rounded up to a width that
            `round_to` allows; not of a group with a ratio of its own.
        ratios: shell pattern of layer names -> ratio, instead of `ratio`; the last pattern that matches counts.
        stagger: groups round at different places instead of half way, so that a growing ratio narrows them one by one and a
            budget can be met more closely.
        comparable: scores of different groups are compared as they are; else divided by their group's mean.
        wholes: units that each group had before it was first pruned, of which ratios and floor are shares; default those it
            has. A group that is as narrow already keeps its width.
    """
    wholes = wholes or [group.units for group in groups]
    wanted = [_own_ratio(group, ratio, ratios or {}) for group in groups]
    if ranking == "local":
        counts = [whole * (1 - (share if share is not None else ratio)) for whole, share in zip(wholes, wanted, strict=True)]
        least = [0] * len(groups)
    else:
        least = [
            _least(group, whole, floor, round_to) if own is None else 0
            for group, whole, own in zip(groups, wholes, wanted, strict=True)
        ]
        level = scores if comparable else [_over_mean(score) for score in scores]
        one_kind = kind if ranking == "isomorphic" else lambda group: None
        counts = _ranked_together(groups, level, ratio, wanted, least, wholes, one_kind)
    kept = []
    for number, (group, score, count, floored) in enumerate(zip(groups, scores, counts, least, strict=True), 1):
        rounded = _rounded(group, count, round_to, _spread(number) if stagger else 0.5)
        kept.append(_best(score, max(floored, rounded)))
    return kept


def _least(group: Group, whole: int, floor: float, round_to: int) -> int:
    """The floor's share of the units, up to the next number that rounding allows; at least one."""
    step = _step(group, round_to)
    return min(group.units, step * max(1, math.ceil(whole * floor / step - 1e-9)))  # 0.1 * 70 is a little over 7


def _over_mean(scores: Tensor) -> Tensor:
    return scores / scores.mean().clamp_min(torch.finfo(torch.float32).tiny)


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
        if pattern == group.address or any(named(layer, pattern) for layer in (group.name, *group.layers)):
            found = own
    return found


def _ranked_together(
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    ratio: float,
    wanted: Sequence[float | None],
    least: Sequence[int],
    wholes: Sequence[int],
    kind: Callable[[Group], object],
) -> list[float]:
    """Units that each group keeps when one threshold decides for all groups of a kind.

    The `least` numbers really hold: what they save in one group is taken from the others.
    """
    kinds: dict[object, list[int]] = {}
    counts = [0.0] * len(groups)
    for position, (group, own) in enumerate(zip(groups, wanted, strict=True)):
        if own is None:
            kinds.setdefault(kind(group), []).append(position)
        else:
            counts[position] = wholes[position] * (1 - own)
    for members in kinds.values():
        pairs: list[tuple[float, int]] = []
        for position in members:
            counts[position] = least[position]
            ordered = scores[position].sort(descending=True).values
            pairs.extend((score, position) for score in ordered[least[position] :].tolist())
        total = sum(wholes[position] for position in members)
        pairs.sort(key=lambda pair: -pair[0])  # of equal scores the first group's
        for _, position in pairs[: max(0, round(total * (1 - ratio)) - round(sum(counts[p] for p in members)))]:
            counts[position] += 1
    return counts


def _rounded(group: Group, count: float, round_to: int, place: float = 0.5) -> int:
    """The nearest number of units whose channels are a multiple of `round_to`; half way, the smaller one.

    With another `place` than 0.5 the rounding changes there, on the way from one multiple to the next.

    A group that loses nothing keeps its width, whatever that is.
    """
    step = _step(group, round_to)
    if group.units <= step or count >= group.units:
        return group.units
    return min(group.units, step * max(1, math.ceil(count / step - place)))


def _step(group: Group, round_to: int) -> int:
    """The least number of units whose channels are a multiple of `round_to`."""
    return round_to // math.gcd(round_to, group.width)


def _best(score: Tensor, count: int) -> list[int]:
    """Positions of the `count` largest; of equal ones the first."""
    order = torch.argsort(score, descending=True, stable=True)
    return sorted(order[:count].tolist())


def isomorphic_kind(model: nn.Module) -> Callable[[Group], object]:
    """Groups are of one kind if they cut the same number of layers of each type and kernel size, in the same way."""
    modules = dict(model.named_modules())

    def looks(member: Member) -> tuple[str, tuple[int, ...], bool, int, int]:
        module = modules[member.layer]
        kernel = module.kernel_size if isinstance(module, nn.modules.conv._ConvNd) else ()
        return type(module).__name__, kernel, member.reads, member.dim, member.places.shape[1]

    return lambda group: tuple(sorted(looks(member) for member in group.members))
