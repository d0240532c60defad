"""The weights that a training ends with: averaged over the steps, and of the best epoch."""

from collections.abc import Callable
from typing import Any

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


class Kept:
    """What a training ends with. Without decay and score it is the model as the last step left it.

    Args:
        average: the decay of an `Average` to end with; None for the weights themselves.
        score: of the model in eval mode, larger is better, asked for after each epoch; the best epoch is kept.

    Attributes:
        since_best: epochs since the best score.
    """

    def __init__(self, model: nn.Module, average: float | None, score: Callable[[nn.Module], float] | None) -> None:
        self.model = model
        self.average = Average(model, average) if average is not None else None
        self.score = score
        self.best: dict[str, Tensor] = {}
        self.best_score = float("-inf")
        self.since_best = 0

    def after_step(self) -> None:
        """Bring the average up to date."""
        if self.average is not None:
            self.average.update_()

    def after_epoch(self, write_zeros: Callable[[], None]) -> float | None:
        """The score of what the training would end with now; it goes on with the weights as they are.

        Args:
            write_zeros: sets held zeros in the model, which an average from before they came lacks.
        """
        if self.score is None:
            return None
        self._swap(write_zeros)
        score = self.score(self.model.eval())
        self.since_best += 1
        if score >= self.best_score:  # never so for NaN
            self.best_score, self.since_best = score, 0
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self._swap(lambda: None)
        self.model.train()
        return score

    def finish_(self, write_zeros: Callable[[], None]) -> None:
        """Leave the model as the training ends, in eval mode."""
        if self.best:
            self.model.load_state_dict(self.best)
        else:
            self._swap(write_zeros)
        self.model.eval()

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain data and tensors."""
        average = {"values": self.average.values, "steps": self.average.steps} if self.average is not None else None
        return {"best": self.best, "best_score": self.best_score, "since_best": self.since_best, "average": average}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.best, self.best_score, self.since_best = state["best"], state["best_score"], state["since_best"]
        if self.average is not None:
            self.average.steps = state["average"]["steps"]
            for value, saved in zip(self.average.values, state["average"]["values"], strict=True):
                value.copy_(saved)

    def _swap(self, then: Callable[[], None]) -> None:
        if self.average is not None:
            self.average.swap_()
            then()
