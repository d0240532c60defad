"""Labelled images in memory, and the `Task` they make."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from compress.data.augment import flip, shift
from compress.data.preprocess import Preprocess
from compress.progress import track
from compress.task import Predict, Task

CALIBRATION_IMAGES = 512
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class ImageData:
    """Training and test images as uint8 (N, C, H, W) with int64 labels (N,); `train` may be empty.

    Args:
        classes: the name of each label, in order.
        flips: whether a mirrored image keeps its label.
        shift: how far augmentation moves an image, as a fraction of its width.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    flips: bool = True
    shift: float = 1 / 12

    def limited(self, train: int | None, evaluate: int | None) -> "ImageData":
        """The first `train` training and `evaluate` test images; None keeps all."""
        return replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[:evaluate],
            test_labels=self.test_labels[:evaluate],
        )


@dataclass(frozen=True)
class Batches:
    """One epoch of `(images, labels)` on each iteration, shuffled and augmented; `len()` is the number of batches."""

    images: Tensor
    labels: Tensor
    preprocess: Preprocess
    size: int
    flips: bool
    pixels: int

    def __len__(self) -> int:
        return max(1, len(self.images) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images))
        for index in range(len(self)):
            chosen = order[index * self.size : (index + 1) * self.size]
            images = self.images[chosen]
            if self.flips:
                images = flip(images)
            if self.pixels:
                images = shift(images, self.pixels)
            yield self.preprocess.normalized(images), self.labels[chosen]


def split_validation(count: int) -> tuple[Tensor, Tensor]:
    """Indices for training and for validation: every tenth sample is kept out of training. Fixed, so that it never leaks."""
    index = torch.arange(count)
    held_out = index % 10 == 9
    return index[~held_out], index[held_out]


def accuracy_of(images: Tensor, labels: Tensor, preprocess: Preprocess, what: str) -> Callable[[Predict], float]:
    """A function that gives the top-1 accuracy, in [0, 1], of a prediction function on these images."""
    expected = labels.numpy()

    def evaluate(predict: Predict) -> float:
        correct = 0
        for start in track(range(0, len(images), EVALUATION_BATCH), what):
            stop = start + EVALUATION_BATCH
            scores = predict(preprocess.normalized(images[start:stop]))
            correct += int(np.sum(scores.argmax(-1) == expected[start:stop]))
        return correct / len(images)

    return evaluate


def image_task(data: ImageData, preprocess: Preprocess, *, batch: int = 128) -> Task:
    """The classification task that `data` makes for a model with this preprocessing.

    Without training images the first tenth of the test images (at most `CALIBRATION_IMAGES`) is kept for calibration and
    left out of the evaluation.
    """
    test_images, test_labels = preprocess.resized(data.test_images), data.test_labels
    if len(data.train_images) >= 10:
        kept, held_out = split_validation(len(data.train_images))
        images, labels = preprocess.resized(data.train_images), data.train_labels
        calibration_images = images[kept][:CALIBRATION_IMAGES]
        pixels = round(data.shift * preprocess.size[1])
        train: Batches | None = Batches(images[kept], labels[kept], preprocess, min(batch, len(kept)), data.flips, pixels)
        validate: Callable[[Predict], float] | None = accuracy_of(images[held_out], labels[held_out], preprocess, "validate")
    else:
        reserved = min(CALIBRATION_IMAGES, max(1, len(test_images) // 10))
        calibration_images = test_images[:reserved]
        if len(test_images) > reserved:
            test_images, test_labels = test_images[reserved:], test_labels[reserved:]
        train, validate = None, None

    def calibration() -> Iterator[tuple[Tensor]]:
        for part in calibration_images.split(32):
            yield (preprocess.normalized(part),)

    return Task(
        example_inputs=(preprocess.normalized(calibration_images[:2]),),
        evaluate=accuracy_of(test_images, test_labels, preprocess, "evaluate"),
        calibration=calibration,
        train=None if train is None else lambda: train,
        validate=validate,
    )
