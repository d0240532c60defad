"""`--data npz:FILE`: what is accepted, in which layouts, and what is said of the rest."""

from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data.npz import read_npz
from compress.errors import UserError

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def written(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def rows(images: torch.Tensor, labels: torch.Tensor) -> set[tuple[bytes, int]]:
    """Images with their labels, whatever their order."""
    return {(image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize(
    ("shape", "to_channels_first"),
    [
        ((12, 3, 6, 5), lambda x: x),
        ((12, 6, 5, 3), lambda x: np.moveaxis(x, 3, 1)),
        ((12, 1, 6, 5), lambda x: x),
        ((12, 6, 5), lambda x: x[:, np.newaxis]),
    ],
    ids=["NCHW", "NHWC", "N1HW", "NHW"],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], to_channels_first) -> None:
    x, y = pixels(*shape), np.arange(12) % 4
    data = read_npz(written(tmp_path, xtr=x, ytr=y, xte=x[:6], yte=y[:6]))
    expected = torch.from_numpy(np.ascontiguousarray(to_channels_first(x)))
    assert rows(data.train_images, data.train_labels) == rows(expected, torch.from_numpy(y))
    assert rows(data.test_images, data.test_labels) == rows(expected[:6], torch.from_numpy(y[:6]))
    assert data.train_images.is_contiguous()
    assert data.classes == ("0", "1", "2", "3")
    assert data.flips is (expected.shape[1] == 3)


def test_without_training_arrays_there_is_an_evaluation_alone(tmp_path: Path) -> None:
    data = read_npz(written(tmp_path, xte=pixels(4, 3, 5, 5), yte=np.arange(4)))
    assert data.train_images.shape == (0, 3, 5, 5)
    assert len(data.test_images) == 4


def test_limits_take_evenly_from_data_that_are_sorted_by_class(tmp_path: Path) -> None:
    x, y = pixels(40, 3, 5, 5), np.repeat(np.arange(4), 10)
    path = written(tmp_path, xtr=x, ytr=y, xte=x, yte=y)
    data = read_npz(path, limit_train=12, limit_eval=8)
    assert sorted(data.train_labels.tolist()) == sorted([0, 1, 2, 3] * 3)
    assert sorted(data.test_labels.tolist()) == sorted([0, 1, 2, 3] * 2)
    again = read_npz(path, limit_train=12, limit_eval=8)
    assert torch.equal(again.train_images, data.train_images)
    assert data.train_labels.tolist() != sorted(data.train_labels.tolist())


LABELS = np.arange(4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"xte": pixels(4, 3, 5, 5)}, " has no array 'yte'; it has: xte. Needed: xte, yte"),
        (
            {"xtr": pixels(4, 3, 5, 5), "xte": pixels(4, 3, 5, 5), "yte": LABELS},
            " has no array 'ytr'; it has: xtr, xte, yte. Needed: xtr, ytr, xte, yte",
        ),
        ({"xte": np.zeros((4, 3, 5, 5)), "yte": LABELS}, ": xte is float64; uint8 pixels of 0 to 255 are needed"),
        (
            {"xte": pixels(4, 3, 5, 3), "yte": LABELS},
            ": xte has shape (4, 3, 5, 3), and either axis could be that of the channels",
        ),
        (
            {"xte": pixels(4, 5, 5, 4), "yte": LABELS},
            ": xte has shape (4, 5, 5, 4); (N, C, H, W) or (N, H, W, C) with C of 1 or 3, or (N, H, W), is needed",
        ),
        ({"xte": pixels(4, 3, 5, 5), "yte": np.arange(3)}, ": xte holds 4 images, yte holds 3 labels"),
        (
            {"xte": pixels(4, 3, 5, 5), "yte": np.eye(4)},
            ": yte is float64 of shape (4, 4); integers, one per image, are needed",
        ),
        ({"xte": pixels(4, 3, 5, 5), "yte": LABELS - 1}, ": yte has the label -1; labels count from 0"),
        ({"xte": pixels(0, 3, 5, 5), "yte": LABELS[:0]}, ": xte is empty"),
        (
            {"xtr": pixels(4, 1, 5, 5), "ytr": LABELS, "xte": pixels(4, 3, 5, 5), "yte": LABELS},
            ": xtr has 1 channels, xte has 3; they should have the same",
        ),
        (
            {"xte": np.array([{}], dtype=object), "yte": LABELS},
            " cannot be read as an .npz file: Object arrays cannot be loaded when allow_pickle=False",
        ),
    ],
)
def test_what_is_wrong_with_the_arrays_is_said(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = written(tmp_path, **arrays)
    with pytest.raises(UserError) as error:
        read_npz(path)
    assert str(error.value) == f"{path}{message}"


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_npz(tmp_path / "gone.npz")
    assert str(error.value) == f"no such file: {tmp_path / 'gone.npz'}"

    torn = written(tmp_path, xte=pixels(4, 3, 5, 5), yte=LABELS)
    torn.write_bytes(torn.read_bytes()[:-50])
    with pytest.raises(UserError) as error:
        read_npz(torn)
    assert str(error.value) == f"{torn} cannot be read as an .npz file: File is not a zip file"

    single = tmp_path / "single.npy"
    np.save(single, LABELS)
    with pytest.raises(UserError) as error:
        read_npz(single)
    assert str(error.value) == f"{single} holds one array; an .npz file with xtr, ytr, xte and yte is needed"
