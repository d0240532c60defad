"""Which channels matter: one score per unit of a group, larger is more important.

A criterion looks at the numbers of a group's units as matrices (units, numbers): one for each weight that makes or reads the
channels, one for each norm's scale. Scores of several matrices are averaged, as in Fang et al. 2023, "DepGraph", section 3.3,
but where a criterion says otherwise.

One of your own is a function from evidence to scores; `Criterion` says what it measures, and a name makes it usable in recipes:

>>> from compress.pruning.channels import prune_channels_
>>> from compress.testing import tiny_model, tiny_task
>>> def largest(evidence):
...     return torch.stack([weight.abs().amax(1) for weight in evidence.weights]).mean(0)
>>> prune_channels_(tiny_model(), tiny_task().example_inputs, ratio=0.5, criterion=largest)
{'stem': (16, 8), 'body': (16, 8)}
>>> register_criterion("largest", largest)  # from now on also PruneChannels(criterion="largest")
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.errors import UserError


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at, for one group. Weights and gradients are made when asked for, one at a time.

    Attributes:
        units: how many scores there are to give.
        weights: (units, numbers) each, float32: the weights and scales of norms; those that make the channels come first.
        reads: for each of the weights, whether it reads the channels.
        filters: (units, rows, columns) each: weights that make the channels, as (inputs, kernel); empty unless asked for.
        scales: (units, k) each: of batch norms.
        gradients: of the loss on one batch, shaped like `weights`; empty unless asked for. A criterion that asks for them is
            called once for each batch, and its scores are averaged.
        activations: (units,) each: means of absolute values of what readers get; empty unless asked for.
        zeros: (units,) each: shares of zeros in what readers get; empty unless asked for.
        generator: for the criterion that draws.
    """

    units: int
    weights: Sequence[Tensor]
    reads: Sequence[bool]
    filters: Sequence[Tensor]
    scales: Sequence[Tensor]
    gradients: Sequence[Tensor]
    activations: Sequence[Tensor]
    zeros: Sequence[Tensor]
    generator: torch.Generator


# One score per unit, (units,); None where the group shows nothing to go by: its units are then scored by `l2`, with a note.
Score = Callable[[Evidence], Tensor | None]


@dataclass(frozen=True)
class Criterion:
    """A scoring function, and what it goes by.

    Attributes:
        score: one score per unit, or None where the group shows nothing to go by.
        measures: what is gathered beside the weights: `filters`, `gradients`, `activations`, or None.
        comparable: whether scores of different groups mean the same, such as a change of the loss. Those of other criteria
            are divided by their group's mean before groups are compared.
    """

    score: Score
    measures: str | None = None
    comparable: bool = False

    @property
    def needs_batches(self) -> bool:
        """Whether the network has to run on data."""
        return self.measures in ("gradients", "activations")

    @property
    def name(self) -> str:
        """What messages call it."""
        return getattr(self.score, "__name__", type(self.score).__name__)


def _mean(scores: list[Tensor]) -> Tensor:
    return torch.stack(scores).mean(0)


def l1(evidence: Evidence) -> Tensor:
    """Sum of absolute values. Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1."""
    return _mean([w.abs().sum(1) for w in evidence.weights])


def l2(evidence: Evidence) -> Tensor:
    """Sum of squares. Source: Fang et al. 2023, "DepGraph", section 3.3 (group norm)."""
    return _mean([w.square().sum(1) for w in evidence.weights])


def fpgm(evidence: Evidence) -> Tensor:
    """Sum of distances to all other channels: those near the geometric median can be replaced by the rest.

    Source: He et al. 2019, "Filter Pruning via Geometric Median", section 3.2.
    """
    return _mean([torch.cdist(w, w).sum(1) for w in evidence.weights])


def bn_scale(evidence: Evidence) -> Tensor | None:
    """Absolute scale of the batch norm, as it is over all layers; None in a group without one.

    Source: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", section 3.
    """
    return _mean([scale.abs().sum(1) for scale in evidence.scales]) if evidence.scales else None


def lamp(evidence: Evidence) -> Tensor:
    """Squared norm over the sum of those that are not smaller: in (0, 1], and 1 for the largest of every group.

    Made for comparing groups: within one it grows with the norm, so that under the ranking `local` it chooses what `l2` does.

    Source: Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", equation 1, with a channel's squared
    norm in the place of a squared weight.
    """
    norms = l2(evidence)
    order = norms.argsort(descending=True, stable=True)
    scores = norms[order] / norms[order].cumsum(0).clamp_min(torch.finfo(norms.dtype).tiny)
    return torch.empty_like(scores).index_copy_(0, order, scores)


def taylor(evidence: Evidence) -> Tensor | None:
    """Square of the loss's first-order change when nobody reads the channel any more; None where no weight reads it.

    A gate on the channel has the derivative sum of weight times gradient over all weights that read it, and that is the
    change. It is squared on each batch, with the batch's mean loss, and the squares are averaged. Behind a batch norm and a
    ReLU this is what the paper computes from the norm's scale and shift: scale times its gradient, plus shift times its own.

    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", equation 8 and section 3.2.
    """
    weights = zip(evidence.weights, evidence.gradients, evidence.reads, strict=True)
    changes = [(w * g).sum(1) for w, g, reads in weights if reads]
    return torch.stack(changes).sum(0).square() if changes else None


def obd(evidence: Evidence) -> Tensor:
    """Second-order change of the loss when the weights become zero, by a diagonal Hessian: half of weight^2 times Hessian.

    For the Hessian stands the mean, over batches, of the squared gradient of the batch's mean loss: the empirical Fisher
    information of batches. That of single samples is about as many times larger as a batch has samples; the order of the
    channels is what counts here.

    Source: LeCun et al. 1990, "Optimal Brain Damage", equation 5.
    """
    return _mean([(w * g).square().sum(1) / 2 for w, g in zip(evidence.weights, evidence.gradients, strict=True)])


def activation(evidence: Evidence) -> Tensor | None:
    """Mean absolute value of what the channel's readers get; None where no reader could be watched.

    Source: Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", section 2.2.
    """
    return _mean(list(evidence.activations)) if evidence.activations else None


def apoz(evidence: Evidence) -> Tensor | None:
    """Share of values that are not zero where the channel is read; None where no reader could be watched.

    It tells nothing without activations that give zeros, such as ReLU.

    Source: Hu et al. 2016, "Network Trimming", section 3.1 (average percentage of zeros).
    """
    return 1 - _mean(list(evidence.zeros)) if evidence.zeros else None


def elastic_net(evidence: Evidence) -> Tensor:
    """Half the L1 score plus half the L2 score, a sum of squares.

    It depends on the weights' scale, as the penalty does: where weights are well below 1, the L1 part decides.

    Source: Zou and Hastie 2005, "Regularization and Variable Selection via the Elastic Net", equation 3, with both lambdas 1/2.
    """
    return (l1(evidence) + l2(evidence)) / 2


def nuclear(evidence: Evidence) -> Tensor:
    """Sum of the singular values of the filter as a matrix (inputs, kernel): filters near low rank carry less.

    Rows of a linear layer and 1x1 filters are vectors: their only singular value is their L2 norm (no square). The rows of an
    attention head are one matrix.

    Source: Lin et al. 2020, "HRank", section 3, whose rank of feature maps this takes over to weights by its convex hull.
    """
    return _mean([torch.linalg.svdvals(w).sum(-1) for w in evidence.filters])


def random(evidence: Evidence) -> Tensor:
    """Drawn evenly: the baseline that every other criterion has to beat."""
    return torch.rand(evidence.units, generator=evidence.generator)


CRITERIA: dict[str, Criterion] = {
    "l2": Criterion(l2),
    "l1": Criterion(l1),
    "fpgm": Criterion(fpgm),
    "bn_scale": Criterion(bn_scale, comparable=True),
    "lamp": Criterion(lamp, comparable=True),
    "taylor": Criterion(taylor, "gradients", comparable=True),
    "obd": Criterion(obd, "gradients", comparable=True),
    "activation": Criterion(activation, "activations"),
    "apoz": Criterion(apoz, "activations"),
    "elastic_net": Criterion(elastic_net),
    "nuclear": Criterion(nuclear, "filters"),
    "random": Criterion(random, comparable=True),
}


def register_criterion(name: str, criterion: Criterion | Score) -> None:
    """Make a criterion of your own known by name, to `PruneChannels` and recipes, as long as this process runs.

    Raises:
        UserError: the name is taken.
    """
    if name in CRITERIA:
        raise UserError(f"there is a criterion '{name}' already; give yours another name")
    CRITERIA[name] = criterion if isinstance(criterion, Criterion) else Criterion(criterion)
