"""Counting along an epoch."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from torch import Tensor

from compress import workers
from compress.training.result import Epoch

Item = TypeVar("Item")


def groups(batches: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The batches in lists of `size`, the last of which may be shorter: those whose gradients make one step."""
    group: list[Item] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


class Tally:
    """Batches, samples, loss, accuracy and time of an epoch, from now on; over all processes that train."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.waited = self.total = 0.0
        self.batches = self.samples = self.correct = self.judged = 0
        self.terms: dict[str, float] = {}

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
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

    def add(self, loss: Tensor, logits: Tensor, target: Tensor, share: float, terms: Mapping[str, Tensor]) -> float:
        """This process's part of a batch; it is judged where its targets are class indices. Gives the batch's loss.

        Args:
            terms: what the loss is the sum of, by name; may be empty.
        """
        correct = judged = 0
        if logits.ndim == 2 and target.ndim == 1 and not target.is_floating_point():
            correct, judged = int((logits.argmax(1) == target).sum()), len(target)
        parts = [share * term.item() for term in terms.values()]
        found, *counts = workers.summed(share * loss.item(), len(target), correct, judged, *parts)
        self.total += found
        for name, part in zip(terms, counts[3:], strict=True):
            self.terms[name] = self.terms.get(name, 0.0) + part
        self.batches += 1
        self.samples += int(counts[0])
        self.correct += int(counts[1])
        self.judged += int(counts[2])
        return found

    def note(self) -> str:
        """Loss, accuracy and speed so far."""
        right = f", accuracy {self.correct / self.judged:.3f}" if self.judged else ""
        return f"loss {self.total / self.batches:.3f}{right}, {self.samples / self.seconds:.0f}/s"

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
            loss=self.total / self.batches,
            accuracy=self.correct / self.judged if self.judged else None,
            score=None,
            lr=lr,
            seconds=round(seconds, 3),
            waiting=round(self.waited / seconds, 4),
            terms={name: total / self.batches for name, total in self.terms.items()},
        )
