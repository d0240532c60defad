"""Which channels matter: one score per unit of a group, larger is more important.

A criterion looks at the numbers of a group's units as matrices (units, numbers): one for each weight that makes or reads the
channels, one for each norm's scale. Scores of several matrices are averaged, as in Fang et al. 2023, "DepGraph", section 3.3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at, for one group.

    Attributes:
        weights: (units, numbers) each, float32: the weights and scales of norms; those that make the channels come first.
        filters: (units, rows, columns) each: weights that make the channels, as (inputs, kernel); empty unless asked for.
        scales: (units, k) each: of batch norms.
        gradients: of the loss, averaged over the batches, shaped like `weights`; empty unless asked for.
        squared_gradients: means of squares over batches, shaped like `weights`; empty unless asked for.
        activations: (units,) each: means of absolute values of what readers get.
        zeros: (units,) each: shares of zeros in what readers get.
        generator: for the criterion that draws.
    """

    weights: list[Tensor]
    filters: list[Tensor]
    scales: list[Tensor]
    gradients: list[Tensor]
    squared_gradients: list[Tensor]
    activations: list[Tensor]
    zeros: list[Tensor]
    generator: torch.Generator


@dataclass(frozen=True)
class Criterion:
    """A scoring function, and what has to be gathered for it beside the weights: `filters`, `gradients` or `activations`."""

    score: Callable[[Evidence], Tensor]
    measures: str | None = None

    @property
    def needs_batches(self) -> bool:
        """Whether the network has to run on data."""
        return self.measures in ("gradients", "activations")


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


def bn_scale(evidence: Evidence) -> Tensor:
    """Absolute scale of the batch norm; the L2 score in a group without one.

    Source: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", section 3.
    """
    return _mean([scale.abs().sum(1) for scale in evidence.scales]) if evidence.scales else l2(evidence)


def lamp(evidence: Evidence) -> Tensor:
    """Squared norm over the sum of those that are at least as large: comparable between layers.

    Source: Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", section 3, for channels.
    """
    norms = l2(evidence)
    order = norms.argsort()
    ordered = norms[order]
    scores = ordered / ordered.flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(norms.dtype).tiny)
    return torch.empty_like(scores).index_copy_(0, order, scores)


def taylor(evidence: Evidence) -> Tensor:
    """Square of the first-order change of the loss when the channel is zeroed.

    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", equation 8.
    """
    return _mean([(w * g).sum(1).square() for w, g in zip(evidence.weights, evidence.gradients, strict=True)])


def obd(evidence: Evidence) -> Tensor:
    """Second-order change of the loss with a diagonal Hessian, for which the mean of squared gradients stands.

    Source: LeCun et al. 1990, "Optimal Brain Damage", equation 5; the empirical Fisher information as the Hessian.
    """
    return _mean([(w.square() * s).sum(1) / 2 for w, s in zip(evidence.weights, evidence.squared_gradients, strict=True)])


def activation(evidence: Evidence) -> Tensor:
    """Mean absolute value of what the channel's readers get; the L2 score where no reader could be watched.

    Source: Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", section 2.2.
    """
    return _mean(evidence.activations) if evidence.activations else l2(evidence)


def apoz(evidence: Evidence) -> Tensor:
    """Share of values that are not zero where the channel is read; the L2 score where no reader could be watched.

    Source: Hu et al. 2016, "Network Trimming", section 3.1 (average percentage of zeros).
    """
    return 1 - _mean(evidence.zeros) if evidence.zeros else l2(evidence)


def elastic_net(evidence: Evidence) -> Tensor:
    """Half the L1 score plus half the L2 score. Source: Zou and Hastie 2005, section 2, with equal weights."""
    return (l1(evidence) + l2(evidence)) / 2


def nuclear(evidence: Evidence) -> Tensor:
    """Sum of the singular values of the filter as a matrix (inputs, kernel): filters near low rank carry less.

    Source: Lin et al. 2020, "HRank", section 3, whose rank of feature maps this takes over to weights by its convex hull.
    """
    return _mean([torch.linalg.svdvals(w).sum(-1) for w in evidence.filters]) if evidence.filters else l2(evidence)


def random(evidence: Evidence) -> Tensor:
    """Drawn evenly: the baseline that every other criterion has to beat."""
    return torch.rand(len(evidence.weights[0]), generator=evidence.generator)


CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(l1),
    "l2": Criterion(l2),
    "fpgm": Criterion(fpgm),
    "bn_scale": Criterion(bn_scale),
    "lamp": Criterion(lamp),
    "taylor": Criterion(taylor, "gradients"),
    "obd": Criterion(obd, "gradients"),
    "activation": Criterion(activation, "activations"),
    "apoz": Criterion(apoz, "activations"),
    "elastic_net": Criterion(elastic_net),
    "nuclear": Criterion(nuclear, "filters"),
    "random": Criterion(random),
}
