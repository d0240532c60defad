"""Counting along an epoch."""

import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from compress.training.result import Batches, Epoch


def groups(batches: Batches, size: int) -> Iterator[list[tuple[Tensor, ...]]]:
    """The batches in lists of `size`, the last of which may be shorter: those whose gradients make one step."""
    group: list[tuple[Tensor, ...]] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


class Tally:
    """Batches, samples, loss, accuracy and time of an epoch, from now on."""

    def __init__(self, device: torch.device) -> None:
        self.begun = time.perf_counter()
        self.waited = 0.0
        self.batches = self.samples = self.correct = self.judged = 0
        self.total = torch.zeros((), device=device)

    def waiting(self, items: Iterable[list[tuple[Tensor, ...]]]) -> Iterator[list[tuple[Tensor, ...]]]:
        """The same items, with the time counted that each takes to come."""
        iterator = iter(items)
        while True:
            asked = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - asked
            yield item

    def add(self, loss: Tensor, logits: Tensor, target: Tensor) -> None:
        """A batch; it is judged where its targets are class indices."""
        self.total += loss.detach()
        self.batches += 1
        self.samples += len(target)
        if logits.ndim == 2 and target.ndim == 1 and not target.is_floating_point():
            self.correct += int((logits.argmax(1) == target).sum())
            self.judged += len(target)

    def note(self) -> str:
        """Loss, accuracy and speed so far."""
        right = f", accuracy {self.correct / self.judged:.3f}" if self.judged else ""
        return f"loss {self.total.item() / self.batches:.3f}{right}, {self.samples / self.seconds:.0f}/s"

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.begun

    def epoch(self, number: int, steps: int, samples: int, lr: float) -> Epoch:
        """The row of the finished epoch, without a score."""
        seconds = self.seconds
        return Epoch(
            number=number,
            steps=steps,
            samples=samples,
            loss=self.total.item() / self.batches,
            accuracy=self.correct / self.judged if self.judged else None,
            score=None,
            lr=lr,
            seconds=round(seconds, 3),
            waiting=round(self.waited / seconds, 4),
        )
