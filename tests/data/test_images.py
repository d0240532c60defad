"""Preprocessing, augmentation, and the task that labelled images make: nothing leaks from one part into another."""

import json

import numpy as np
import pytest
import torch

from compress.data.augment import flip, shift
from compress.data.images import CALIBRATION_IMAGES, ImageData, image_task, split_validation
from compress.data.preprocess import Preprocess

# With these, what a network sees are the stored bytes themselves.
BYTES = Preprocess(size=(1, 2), mean=(0.0,), std=(1 / 255,), channels=1)


def numbered(start: int, count: int) -> torch.Tensor:
    """Images (count, 1, 1, 2) that each hold their own number in two bytes."""
    numbers = torch.arange(start, start + count)
    return torch.stack([numbers // 256, numbers % 256], -1).view(count, 1, 1, 2).to(torch.uint8)


def numbers_in(images: torch.Tensor) -> list[int]:
    """The reverse of `numbered`."""
    whole = images.round().long().view(len(images), 2)
    return (whole[:, 0] * 256 + whole[:, 1]).tolist()


def numbered_data(train: int, test: int) -> ImageData:
    return ImageData(
        train_images=numbered(0, train),
        train_labels=torch.arange(train) % 3,
        test_images=numbered(train, test),
        test_labels=torch.arange(test) % 3,
        classes=("a", "b", "c"),
        flips=False,
        shift=0,
    )


def seen_by(evaluate) -> list[int]:
    """The numbers of the images that an evaluation sends."""
    seen: list[int] = []

    def predict(images: torch.Tensor) -> np.ndarray:
        seen.extend(numbers_in(images))
        return np.zeros((len(images), 3), np.float32)

    evaluate(predict)
    return seen


def test_normalized_is_what_a_loop_over_pixels_gives() -> None:
    preprocess = Preprocess(size=(2, 3), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images = torch.randint(0, 256, (2, 3, 2, 3), dtype=torch.uint8)
    got = preprocess.normalized(images)
    for n, c, h, w in np.ndindex(2, 3, 2, 3):
        expected = (int(images[n, c, h, w]) / 255 - preprocess.mean[c]) / preprocess.std[c]
        assert float(got[n, c, h, w]) == pytest.approx(expected, abs=1e-6)


def test_grey_images_are_repeated_for_a_network_of_three_channels() -> None:
    grey = torch.randint(0, 256, (2, 1, 2, 3), dtype=torch.uint8)
    preprocess = Preprocess(size=(2, 3), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert torch.equal(preprocess.normalized(grey), preprocess.normalized(grey.repeat(1, 3, 1, 1)))


def test_resized_halves_by_averaging() -> None:
    """Antialiased bilinear halving weighs four pixels 1 3 3 1; on a constant image any weights give the constant."""
    constant = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(Preprocess((4, 4), (0,), (1,), 1).resized(constant), constant[..., :4, :4])
    row = torch.tensor([0, 0, 0, 200, 0, 0, 0, 0], dtype=torch.uint8).expand(1, 1, 8, 8)
    middle = (1 * 0 + 3 * 0 + 3 * 200 + 1 * 0) / 8
    assert int(Preprocess((8, 4), (0,), (1,), 1).resized(row)[0, 0, 0, 1]) == round(middle)


def test_preprocess_survives_json() -> None:
    preprocess = Preprocess(size=(224, 192), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), resize=256)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    torch.manual_seed(0)
    images = torch.arange(200 * 4, dtype=torch.int32).view(200, 1, 1, 4)
    flipped = flip(images)
    mirrored = [bool(torch.equal(new, old.flip(-1))) for new, old in zip(flipped, images, strict=True)]
    untouched = [bool(torch.equal(new, old)) for new, old in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, untouched, strict=True))
    assert 70 < sum(mirrored) < 130


def test_shift_moves_each_image_and_fills_with_black() -> None:
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 7, 7)
    images[:, :, 3, 3] = 1
    shifted = shift(images, 2)
    found = {tuple(map(int, place[1:])) for place in shifted[:, 0].nonzero()}
    assert float(shifted.sum()) == 200
    assert found == {(row, column) for row in range(1, 6) for column in range(1, 6)}


def test_every_tenth_training_image_is_for_choosing_and_never_trained_on() -> None:
    task = image_task(numbered_data(300, 40), BYTES, batch=16)
    trained = {n for _ in range(5) for images, _ in task.train() for n in numbers_in(images)}
    calibrated = {n for (images,) in task.calibration() for n in numbers_in(images)}
    validated = seen_by(task.validate)
    assert validated == list(range(9, 300, 10))
    assert not trained & set(validated)
    assert not calibrated & set(validated)
    assert calibrated <= set(range(300))
    assert seen_by(task.evaluate) == list(range(300, 340))


def test_an_epoch_holds_each_training_image_at_most_once_in_another_order() -> None:
    torch.manual_seed(0)
    task = image_task(numbered_data(100, 10), BYTES, batch=16)
    epoch = [n for images, _ in task.train() for n in numbers_in(images)]
    assert len(epoch) == len(set(epoch)) == 90 // 16 * 16 == len(task.train()) * 16
    assert epoch != sorted(epoch)


def test_labels_stay_with_their_images() -> None:
    task = image_task(numbered_data(100, 10), BYTES, batch=16)
    for images, labels in task.train():
        assert labels.tolist() == [n % 3 for n in numbers_in(images)]

    def perfect(images: torch.Tensor) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[[(n - 100) % 3 for n in numbers_in(images)]]

    assert task.evaluate(perfect) == 1.0
    assert task.evaluate(lambda images: 1 - perfect(images)) == 0.0


def test_without_training_images_calibration_is_taken_out_of_the_evaluation() -> None:
    task = image_task(numbered_data(0, 100), BYTES)
    calibrated = [n for (images,) in task.calibration() for n in numbers_in(images)]
    assert calibrated == list(range(10))
    assert seen_by(task.evaluate) == list(range(10, 100))
    assert task.train is None
    assert task.validate is None


def test_calibration_is_bounded() -> None:
    task = image_task(numbered_data(1000, 10), BYTES)
    assert sum(len(images) for (images,) in task.calibration()) == CALIBRATION_IMAGES


def test_the_split_is_every_tenth() -> None:
    kept, held_out = split_validation(25)
    assert held_out.tolist() == [9, 19]
    assert sorted([*kept.tolist(), 9, 19]) == list(range(25))


def test_limited_keeps_the_first() -> None:
    limited = numbered_data(50, 20).limited(12, None)
    assert numbers_in(limited.train_images) == list(range(12))
    assert len(limited.train_labels) == 12
    assert len(limited.test_images) == len(limited.test_labels) == 20
