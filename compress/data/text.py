"""`--data jsonl:FILE`: labelled sentences, for a model with a tokenizer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.data.images import split_validation
from compress.data.sentences import label_numbers, read_sentences
from compress.data.subset import spread
from compress.errors import UserError
from compress.progress import track
from compress.task import Predict, Task

LENGTH = 128
CALIBRATION_SENTENCES = 512
EVALUATION_BATCH = 64


@dataclass(frozen=True)
class TextBatches:
    """One epoch of `(*inputs, labels)` on each iteration, shuffled; `len()` is the number of batches."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return max(1, len(self.labels) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(len(self.labels))
        for index in range(len(self)):
            chosen = order[index * self.size : (index + 1) * self.size]
            yield (*(x[chosen] for x in self.inputs), self.labels[chosen])


def accuracy_of(inputs: tuple[Tensor, ...], labels: Tensor, what: str) -> Callable[[Predict], float]:
    """A function that gives the accuracy, in [0, 1], of a prediction function on these sentences."""

    def evaluate(predict: Predict) -> float:
        correct = 0
        for start in track(range(0, len(labels), EVALUATION_BATCH), what):
            part = slice(start, start + EVALUATION_BATCH)
            correct += int(np.sum(predict(*(x[part] for x in inputs)).argmax(-1) == labels[part].numpy()))
        return correct / len(labels)

    return evaluate


def text_task(
    path: Path,
    tokenizer: Any,
    inputs: Sequence[str],
    labels: Sequence[str] = (),
    outputs: int | None = None,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    *,
    batch: int = 32,
) -> Task:
    """The classification task in a file of sentences, all padded or cut to one length.

    The length is 128 tokens, or what the tokenizer says its model takes, if that is less. Without training lines the first
    tenth of the others (at most 512) is kept for calibration and left out of the evaluation.

    Args:
        tokenizer: of the transformers library.
        inputs: the tokenizer's outputs that the model takes, in the order of its `forward`.
        labels, outputs: of the model.
        limit_train, limit_eval: how many lines to take, evenly over the classes; None takes all.

    Raises:
        UserError: as `read_sentences` and `label_numbers`; or the tokenizer cannot pad.
    """
    sentences = read_sentences(path)
    numbers = label_numbers(sentences, labels, outputs, path)
    if tokenizer.pad_token is None:
        raise UserError("the model's tokenizer has no padding token, so sentences cannot be brought to one length")

    def tokens(part: str, limit: int | None) -> tuple[tuple[Tensor, ...], Tensor]:
        mine = [(s.text, number) for s, number in zip(sentences, numbers, strict=True) if s.part == part]
        chosen = [mine[i] for i in spread([number for _, number in mine], limit)]
        return _tokenized([text for text, _ in chosen], tokenizer, inputs), torch.tensor([number for _, number in chosen])

    test, test_labels = tokens("test", limit_eval)
    train, train_labels = tokens("train", limit_train)
    batches: TextBatches | None = None
    validate: Callable[[Predict], float] | None = None
    if len(train_labels) >= 10:
        kept, held_out = split_validation(len(train_labels))
        calibration_inputs = tuple(x[kept][:CALIBRATION_SENTENCES] for x in train)
        batches = TextBatches(tuple(x[kept] for x in train), train_labels[kept], min(batch, len(kept)))
        validate = accuracy_of(tuple(x[held_out] for x in train), train_labels[held_out], "validate")
    else:
        reserved = min(CALIBRATION_SENTENCES, max(1, len(test_labels) // 10))
        calibration_inputs = tuple(x[:reserved] for x in test)
        if len(test_labels) > reserved:
            test, test_labels = tuple(x[reserved:] for x in test), test_labels[reserved:]
    return Task(
        example_inputs=tuple(x[:2] for x in calibration_inputs),
        evaluate=accuracy_of(test, test_labels, "evaluate"),
        calibration=lambda: zip(*(x.split(32) for x in calibration_inputs), strict=True),
        train=None if batches is None else lambda: batches,
        validate=validate,
    )


def _tokenized(texts: list[str], tokenizer: Any, inputs: Sequence[str]) -> tuple[Tensor, ...]:
    """A tensor (sentences, length) of int64 for each of `inputs`."""
    length = min(LENGTH, tokenizer.model_max_length)
    if not texts:
        return tuple(torch.empty((0, length), dtype=torch.int64) for _ in inputs)
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return tuple(encoded[name] for name in inputs)
