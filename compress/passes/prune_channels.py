"""Structured pruning: fewer channels, a smaller network, no special runtime."""

import difflib
import fnmatch
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn

from compress import budgets
from compress.artifact import Artifact
from compress.errors import PassError, UserError, did_you_mean
from compress.passes.base import check_range
from compress.pruning.channels import ChannelPruner, Cut, Settings, changed_widths, widths
from compress.pruning.configs import fit_config_
from compress.pruning.criteria import CRITERIA
from compress.pruning.importances import looks_at_gradients

if TYPE_CHECKING:
    from torch_pruning.importance import Importance

ADDRESS = re.compile(r"#[1-9][0-9]*$")  # the end of a pattern that means one group of a layer


@dataclass(frozen=True)
class Decision:
    """What `prune_channels` does to a model: the cut copy, the units that went, and what a person should know."""

    model: nn.Module
    cuts: list[Cut]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PruneChannels:
    """Remove the least important channels, and attention heads, from every group of coupled layers.

    Which channels go together is followed through every operator of the forward; what cannot be cut safely is protected,
    with the reason in the report, and the cut network is held against the original without these channels. Accuracy right
    afterwards is near chance; recover it with `reestimate_bn` and `finetune`.

    Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"; Li et al. 2017, "Pruning Filters for Efficient
    ConvNets"; of each criterion, see `compress.pruning.criteria`.

    Args:
        ratio: share of the channels of each group, in [0, 1); parameters and MACs fall by about 1 - (1 - ratio)^2.
        target: instead of the ratio, what the network may cost: macs, params, size or latency as a fraction of the original
            (macs=0.5) or absolute (latency=3ms, size=5MB, params=1.2M). Groups are rounded at different places, to come near
            it, so that the ratio found does not repeat the network; the ratios that `compress plan --save` writes do.
        criterion: which channels matter: l2, l1, fpgm, bn_scale, lamp, taylor, obd, activation, apoz, elastic_net, nuclear,
            random, or one that was registered (see `compress.pruning.criteria`); taylor and obd need training data, activation
            and apoz calibration data.
        importance: instead of the criterion, a class of `torch_pruning.importance` by name, such as GroupTaylorImportance.
        ranking: within each group, over all groups, or over groups of one kind.
        round_to: widths that are left are multiples of this, at least 1; 8 suits the kernels of common processors.
        floor: least share of a group that stays under a ranking over several groups, in [0, 1]; one unit stays in any case.
        ratios: shell pattern of layer names to ratio, instead of `ratio`; the last that matches counts. Of a layer that makes
            several groups `layer#1`, `layer#2`, ... mean one, as `compress plan` numbers them.
        exclude: shell patterns of layer names to leave alone, such as `layer4.*`.
        cumulative: ratios and floor are shares of the original's widths, of which earlier steps have taken a part already.
        threads: of the runtime that a latency target is measured on; None: the run's.
        seed: of the random criterion; None: the run's.
        allow_noop: no error where nothing could be removed.
    """

    ratio: float = 0.5
    target: str | None = None
    criterion: str = "l2"
    importance: str | None = None
    ranking: Literal["local", "global", "isomorphic"] = "local"
    round_to: int = 8
    floor: float = 0.1
    ratios: dict[str, float] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    cumulative: bool = False
    threads: int | None = None
    seed: int | None = None
    allow_noop: bool = False

    name: ClassVar[str] = "prune_channels"
    stage: ClassVar[str] = "structure"
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.ratios:
            check_range(self.name, "ratio", self.ratio, 0, 1, open_ends=False)
        else:
            check_range(self.name, "ratio", self.ratio, 0, 1, open_ends=True)
        for pattern, ratio in self.ratios.items():
            check_range(self.name, f"the ratio of '{pattern}'", ratio, 0, 1, open_ends=False)
        check_range(self.name, "floor", self.floor, 0, 1, open_ends=False)
        for option in ("round_to", "threads"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UserError(f"{self.name}: {option} must be at least 1, got {value}")
        if self.target is not None:
            budgets.parse(self.target, f"{self.name}: target")
        if self.criterion not in CRITERIA:
            raise UserError(f"{self.name}: criterion must be one of {', '.join(CRITERIA)}, got {self.criterion!r}")
        if self.importance is not None:
            if looks_at_gradients(self._importance()):
                object.__setattr__(self, "needs", ("train",))
        elif CRITERIA[self.criterion].needs_batches:
            object.__setattr__(self, "needs", ("train",) if self._on_gradients() else ("calibration",))

    def _on_gradients(self) -> bool:
        return self.importance is not None or CRITERIA[self.criterion].measures == "gradients"

    def _importance(self) -> "Importance":
        """The object that `importance` names."""
        import torch_pruning

        known = {name: kind for name, kind in vars(torch_pruning.importance).items() if name.endswith("Importance")}
        if self.importance not in known or self.importance == "Importance":
            near = did_you_mean(str(self.importance), sorted(set(known) - {"Importance"}))
            raise UserError(f"{self.name}: torch_pruning has no importance '{self.importance}'." + near)
        return known[self.importance]()

    def apply(self, artifact: Artifact) -> nn.Module:
        decision = self.decide(self.pruner(artifact), artifact)
        artifact.notes.extend(decision.notes)
        return decision.model

    def pruner(self, artifact: Artifact) -> ChannelPruner:
        """Groups and scores of the artefact's model.

        Raises:
            UserError: the criterion cannot score the channels, such as on data without a batch.
            PassError: the model's forward cannot be followed.
        """
        criterion = self.criterion if self.importance is None else self._importance()
        settings = Settings(
            criterion,
            self.ranking,
            self.round_to,
            self.floor,
            self.ratios,
            self.exclude,
            stagger=self.target is not None,
            original=artifact.reference if self.cumulative else None,
        )
        self._check_patterns(artifact.model)
        task = artifact.task
        batches = task.train if self._on_gradients() else task.calibration
        try:
            seed = int(torch.randint(2**31, ())) if self.seed is None else self.seed  # torch has the run's seed
            pruner = ChannelPruner(artifact.model, task.example_inputs, settings, batches, seed=seed)
            self._check_addresses(pruner)
            return pruner
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        except Exception as error:  # the model's forward can raise anything
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise PassError(f"{self.name} cannot follow the forward of {type(artifact.model).__name__} ({first[0]})") from error

    def _check_patterns(self, model: nn.Module) -> None:
        """A pattern that matches nothing is a typing mistake."""
        names = [name for name, _ in model.named_modules()] + [name for name, _ in model.named_parameters()]
        for option, patterns in (("exclude", self.exclude), ("ratios", tuple(self.ratios))):
            for pattern in patterns:
                if not fnmatch.filter(names, pattern if option == "exclude" else ADDRESS.sub("", pattern)):
                    near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.6)
                    hint = f" Did you mean '{near[0]}'?" if near else ""
                    raise UserError(f"{self.name}: {option}: no layer is called '{pattern}'.{hint}")

    def _check_addresses(self, pruner: ChannelPruner) -> None:
        known = [group.address for group in pruner.groups]
        for pattern in self.ratios:
            if ADDRESS.search(pattern) and pattern not in known:
                near = ", ".join(address for address in known if address.startswith(ADDRESS.sub("#", pattern)))
                raise UserError(f"ratios: no group is called '{pattern}'; of that layer there is {near or 'none'}")

    def decide(self, pruner: ChannelPruner, artifact: Artifact) -> Decision:
        """What the pass does, and says, with these groups.

        Raises:
            UserError: the target cannot be reached.
            PassError: nothing can be removed, and `allow_noop` is off.
        """
        ratio, notes = self.ratio, [*pruner.notes]
        if self.target is not None:
            budget = budgets.parse(self.target)
            inputs = artifact.task.example_inputs
            answer = budgets.ratio_for(budget, pruner, artifact.reference, inputs, threads=self.threads or artifact.threads)
            ratio = answer.ratio
            notes.append(self._met(budget, answer))
        model, cuts = pruner.verified(ratio)
        done_before = self.cumulative and widths(artifact.model) != widths(artifact.reference)
        if not cuts and not self.allow_noop and not done_before:
            raise PassError(self._nothing(pruner))
        changed = changed_widths(widths(artifact.model), widths(model))
        if changed:
            listed = ", ".join(f"{name} {before}->{after}" for name, (before, after) in changed.items())
            notes.append(f"{len(changed)} layers narrowed: {listed}")
        if (mismatch := fit_config_(model, artifact.model, cuts, pruner.inputs)) is not None:
            notes.append(mismatch)
        notes.extend(f"protected: {', '.join(names)} ({reason})" for reason, names in protected(pruner).items())
        return Decision(model, cuts, tuple(notes))

    def _met(self, budget: budgets.Budget, answer: budgets.Answer) -> str:
        spread = f" +- {budget.show(answer.spread)}" if answer.spread else ""
        met = f"{budget.show(answer.cost)}{spread} of {budget.show(answer.baseline)} ({answer.cost / answer.baseline:.3f})"
        trials = "" if answer.gave_up_after is None else f", not nearer after {answer.gave_up_after} networks"
        # Another rounding than without a target, so the ratio alone does not give this network again.
        return f"target {self.target}: {met}{trials}; ratio {answer.ratio:.3f}, rounded group by group"

    def _nothing(self, pruner: ChannelPruner) -> str:
        start = f"{self.name} could remove nothing at ratio {self.ratio:g}"
        if self.target is not None:
            start = f"{self.name}: the model already is within the target {self.target}"
        reasons = [f"{', '.join(names)}: {reason}" for reason, names in protected(pruner).items()]
        free = sum(group.fixed is None for group in pruner.groups)
        narrow = f"; {free} groups are too narrow for round_to {self.round_to}" if free and self.target is None else ""
        return f"{start}{narrow}; the model from before stands" + (f"; protected are {'; '.join(reasons)}" if reasons else "")


def protected(pruner: ChannelPruner) -> dict[str, list[str]]:
    """Reason -> names of the groups that stay for it."""
    found: dict[str, list[str]] = defaultdict(list)
    for group in pruner.groups:
        if group.fixed is not None and group.name not in found[group.fixed]:
            found[group.fixed].append(group.name)
    return dict(found)
