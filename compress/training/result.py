"""What training takes and what it says at the end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor

# (logits, inputs, target) -> loss. The inputs are there for losses that ask a teacher. One with parameters is a module.
Loss = Callable[[Tensor, tuple[Tensor, ...], Tensor], Tensor]
Batches = Iterable[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data.

    Attributes:
        number: counted from 1; `steps` and `samples` from the start of the training.
        loss: the mean over the epoch's batches.
        accuracy: share of its samples that were classified right while training; None where targets are no class indices.
        score: of the validation, after it; None without.
        lr: the learning rate of its last step.
        seconds: that it took, without validation; `waiting` is the share of them spent on getting batches.
        terms: of a loss that is a sum of several, what each adds to `loss`, weighted, by name.
    """

    number: int
    steps: int
    samples: int
    loss: float
    accuracy: float | None
    score: float | None
    lr: float
    seconds: float
    waiting: float
    terms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FitResult:
    """What a training run did.

    Attributes:
        precision: of the forward, such as bfloat16.
        stopped: why it ended before its last epoch; None where it did not.
        restarts: how often it began again at a lower rate.
        processes: how many trained together.
        resumed: epochs that were done before an interruption; 0 without.
    """

    epochs: tuple[Epoch, ...]
    precision: str
    stopped: str | None = None
    restarts: int = 0
    processes: int = 1
    resumed: int = 0

    @property
    def losses(self) -> tuple[float, ...]:
        """The mean loss of each epoch."""
        return tuple(epoch.loss for epoch in self.epochs)

    @property
    def scores(self) -> tuple[float, ...]:
        """What the validation gave after each epoch; empty without."""
        return tuple(epoch.score for epoch in self.epochs if epoch.score is not None)

    @property
    def steps(self) -> int:
        """Steps of the optimizer in all."""
        return self.epochs[-1].steps

    @property
    def samples(self) -> int:
        """Samples seen in all, each as often as it came."""
        return self.epochs[-1].samples

    @property
    def seconds(self) -> float:
        """Time in all, without validation."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def best(self) -> int | None:
        """The epoch with the highest score, counted from 1, the last of equals; None without scores."""
        return max(range(len(self.scores), 0, -1), key=lambda epoch: self.scores[epoch - 1]) if self.scores else None
