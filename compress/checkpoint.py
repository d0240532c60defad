"""The weights that a training run ends with: averaged over the steps, and of the best epoch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a model's trained parameters; buffers are the model's own.

    Early on it follows faster, with a decay of (1 + n) / (10 + n) after n steps, so that the start is soon forgotten.

    Args:
        decay: in [0, 1), of later steps.

    Source: Tarvainen and Valpola 2017, "Mean teachers are better role models", section 2, for the average; the faster start
    is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def update_(self) -> None:
        """Take in the parameters as they are after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def swap_(self) -> None:
        """Exchange the parameters and their averages; a second time undoes it."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)


class Checkpoint:
    """What a training run ends with. Without decay and score it is the model as the last step left it.

    Args:
        average: the decay of an `Average` to end with; None for the weights themselves.
        score: of the model in eval mode, larger is better, asked for after each epoch; the best epoch is kept.

    Attributes:
        scores: one for each epoch.
    """

    def __init__(self, model: nn.Module, average: float | None, score: Callable[[nn.Module], float] | None) -> None:
        self.model = model
        self.average = Average(model, average) if average is not None else None
        self.score = score
        self.scores: list[float] = []
        self.best: dict[str, Tensor] = {}
        self._best_score = float("-inf")

    def after_step(self) -> None:
        """Bring the average up to date."""
        if self.average is not None:
            self.average.update_()

    def after_epoch(self, write_zeros: Callable[[], None]) -> None:
        """Score what the run would end with now; training goes on with the weights as they are.

        Args:
            write_zeros: sets held zeros in the model, which an average from before they came lacks.
        """
        if self.score is None:
            return
        self._swap(write_zeros)
        self.scores.append(self.score(self.model.eval()))
        if self.scores[-1] >= self._best_score:  # never so for NaN
            self._best_score = self.scores[-1]
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self._swap(lambda: None)
        self.model.train()

    def finish_(self, write_zeros: Callable[[], None]) -> None:
        """Leave the model as the run ends, in eval mode."""
        if self.best:
            self.model.load_state_dict(self.best)
        else:
            self._swap(write_zeros)
        self.model.eval()

    def _swap(self, then: Callable[[], None]) -> None:
        if self.average is not None:
            self.average.swap_()
            then()
