"""Taking whole channels out of a network, with everything that is coupled to them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compress.errors import CompressError, UserError
from compress.layers import is_transposed_linear
from compress.outputs import tensors
from compress.pruning.criteria import Criterion, Score
from compress.pruning.cut import cut_, cut_copy, removed_places
from compress.pruning.evidence import Batches, scores, undisturbed
from compress.pruning.groups import Group, find_groups
from compress.pruning.importances import library_scores, resolved
from compress.pruning.oracle import complaint
from compress.pruning.selection import isomorphic_kind, kept_units

if TYPE_CHECKING:
    from torch_pruning.importance import Importance

Cut = tuple[Group, tuple[int, ...]]  # a group, and the units that go


@dataclass(frozen=True)
class Settings:
    """How channels are chosen; see `selection.kept_units` and `criteria`.

    `criterion` is a name of `criteria.CRITERIA`, a `Criterion`, a function from evidence to one score per unit, or an object
    of `torch_pruning.importance`. Ratios are shares of the widths of `original`, from which the model was cut before; without
    it, of its own.
    """

    criterion: "str | Criterion | Score | Importance" = "l2"
    ranking: str = "local"
    round_to: int = 8
    floor: float = 0.1
    ratios: Mapping[str, float] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    stagger: bool = False
    original: nn.Module | None = None


class ChannelPruner:
    """The groups of one model and their scores; gives networks cut by any ratio. The model itself is never changed.

    Attributes:
        groups: all groups; those that must stay say why.
        notes: which groups the criterion cannot score, and what scores them instead.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Tensor, ...],
        settings: Settings,
        batches: Batches | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """
        Args:
            batches: what the criterion measures on, if it does.
            seed: of the random criterion.

        Raises: whatever the model's forward raises.
        """
        device = next(model.parameters()).device
        self.model, self.settings = model, settings
        self.inputs = _few(model, tuple(x.to(device) for x in example_inputs))
        self.groups = find_groups(model, self.inputs, settings.exclude)
        free = [group for group in self.groups if group.fixed is None]
        self.notes: list[str] = []
        self._comparable = False
        found = self._scored(free, batches, seed) if free else []
        self._scores = {_key(group): s for group, s in zip(free, found, strict=True)}

    def _scored(self, groups: Sequence[Group], batches: Batches | None, seed: int) -> list[Tensor]:
        criterion = resolved(self.settings.criterion)
        try:
            if not isinstance(criterion, Criterion):
                self._comparable = True  # the library's have a normalizer of their own
                return library_scores(self.model, groups, criterion, batches)
            self._comparable = criterion.comparable
            found, self.notes = scores(self.model, groups, criterion, batches, seed=seed)
            return found
        except CompressError:
            raise
        except Exception as error:  # a criterion, or the data, can raise anything
            name = criterion.name if isinstance(criterion, Criterion) else type(criterion).__name__
            first = (str(error).strip().splitlines() or [""])[0]
            raise UserError(f"{name} cannot score the channels ({type(error).__name__}: {first})") from error

    def cuts(self, ratio: float) -> list[Cut]:
        """Which units go at this ratio, in groups that lose any."""
        free = [group for group in self.groups if group.fixed is None]
        found = [self._scores[_key(group)] for group in free]
        s = self.settings
        kept = kept_units(
            free,
            found,
            ratio,
            ranking=s.ranking,
            round_to=s.round_to,
            floor=s.floor,
            stagger=s.stagger,
            ratios=s.ratios,
            comparable=self._comparable,
            kind=isomorphic_kind(self.model),
            wholes=[self._whole(group) for group in free],
        )
        gone = [tuple(sorted(set(range(group.units)) - set(stay))) for group, stay in zip(free, kept, strict=True)]
        return [(group, units) for group, units in zip(free, gone, strict=True) if units]

    def _whole(self, group: Group) -> int:
        """Units of the group in the original."""
        if self.settings.original is None:
            return group.units
        member = group.members[0]
        before, now = (m.get_parameter(member.parameter).shape[member.dim] for m in (self.settings.original, self.model))
        return round(group.units * before / now)

    def cut(self, ratio: float) -> nn.Module:
        """A cut copy, not yet verified."""
        return cut_copy(self.model, self.cuts(ratio))

    def parameters_left(self, ratio: float) -> int:
        """How many parameters the cut network has, computed without cutting."""
        sizes = {name: list(p.shape) for name, p in self.model.named_parameters()}
        for (name, dim), places in removed_places(self.cuts(ratio)).items():
            if name in sizes:
                sizes[name][dim] -= len(places)
        return sum(int(torch.Size(shape).numel()) for shape in sizes.values())

    def verified(self, ratio: float) -> tuple[nn.Module, list[Cut]]:
        """The cut network, held against the original without these channels, and what was cut.

        A group whose cut does not stand this is protected from then on, with the reason, and the others are cut.
        """
        while True:
            cuts = self.cuts(ratio)
            cut = cut_copy(self.model, cuts)
            problem = complaint(self.model, cut, cuts, self.inputs) if cuts else None
            if problem is None:
                return cut, cuts
            self._protect(cuts, problem)

    def _protect(self, cuts: list[Cut], problem: str) -> None:
        """Fix the groups that break the network, with what each breaks."""
        reasons = self._culprits(cuts, problem)
        self.groups = [replace(group, fixed=reasons[id(group)]) if id(group) in reasons else group for group in self.groups]

    def _culprits(self, cuts: list[Cut], problem: str) -> dict[int, str]:
        """Ids of groups without which the cuts stand -> what is wrong with them; sought by halves, few trials for few groups."""
        if len(cuts) == 1:
            return {id(cuts[0][0]): problem}
        found: dict[int, str] = {}
        halves = cuts[: len(cuts) // 2], cuts[len(cuts) // 2 :]
        for half in halves:
            if (wrong := self._complaint(half)) is not None:
                found |= self._culprits(half, wrong)
        if not found:  # each half stands, and both together do not
            stand = list(halves[0])
            for cut in halves[1]:
                if (wrong := self._complaint([*stand, cut])) is None:
                    stand.append(cut)
                else:
                    found[id(cut[0])] = wrong
        return found

    def _complaint(self, cuts: list[Cut]) -> str | None:
        return complaint(self.model, cut_copy(self.model, cuts), cuts, self.inputs)


@torch.no_grad()
def _few(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Two samples, which is enough to follow and to verify; all of them where the model wants the batch that it was shown."""
    few = tuple(x[:2] for x in inputs)
    try:
        wanted = {name: (x.ndim, x.shape[1:]) for name, x in tensors(model.eval()(*inputs)).items()}
        found = {name: (x.ndim, x.shape[1:]) for name, x in tensors(model(*few)).items()}
    except Exception:  # a user's forward can raise anything
        return inputs
    return few if found == wanted else inputs


def _key(group: Group) -> tuple[str, int, int]:
    """What a group is known by, also after it was replaced by one that says why it must stay."""
    first = group.members[0]
    return first.parameter, first.dim, int(first.places[0, 0])


def prune_channels_(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    ratio: float,
    criterion: "str | Criterion | Score | Importance" = "l2",
    ranking: str = "local",
    round_to: int = 8,
    floor: float = 0.1,
    ratios: Mapping[str, float] | None = None,
    exclude: Sequence[str] = (),
    batches: Batches | None = None,
    seed: int = 0,
) -> dict[str, tuple[int, int]]:
    """Remove, in place, the least important channels of each group.

    A group is a set of layers whose channels must go together: a convolution, its batch norm, the layers it is added to,
    and the inputs of their readers. What cannot be cut safely, such as the model's outputs, stays as it is.

    Args:
        ratio: share of the channels of each group to remove, in [0, 1). Parameters and MACs fall by about 1-(1-ratio)^2.
        criterion: a name of `criteria.CRITERIA`, a `criteria.Criterion`, a function from `criteria.Evidence` to one score per
            unit, or an object of `torch_pruning.importance`.
        ranking, round_to, floor, ratios: see `selection.kept_units`.
        exclude: shell patterns of layer names to leave alone.
        batches: `(*inputs, target)` for criteria that measure gradients, `(*inputs,)` for those that measure activations.
        seed: of the random criterion.

    Gives the layers whose output channels changed: name -> (before, after). Warns of groups that the criterion cannot score,
    which are scored by l2 instead.

    Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", section 3 (what a group is).
    """
    settings = Settings(criterion, ranking, round_to, floor, ratios or {}, exclude)
    with undisturbed(model):  # in the mode that it had, too
        pruner = ChannelPruner(model, example_inputs, settings, batches, seed=seed)
        _, cuts = pruner.verified(ratio)
    for note in pruner.notes:
        warnings.warn(note, stacklevel=2)
    before = widths(model)
    cut_(model, cuts)
    return changed_widths(before, widths(model))


def widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = module.out_features
        elif isinstance(module, nn.modules.conv._ConvNd):
            found[name] = module.out_channels
        elif is_transposed_linear(module):
            found[name] = module.get_parameter("weight").shape[1]
    return found


def changed_widths(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """The layers whose width differs."""
    return {name: (width, after[name]) for name, width in before.items() if after[name] != width}
