"""`--data npz:FILE`: images and labels as numpy arrays in one file."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.data.images import ImageData
from compress.data.subset import spread
from compress.errors import UserError

KEYS = ("xtr", "ytr", "xte", "yte")


def read_npz(path: Path, limit_train: int | None = None, limit_eval: int | None = None) -> ImageData:
    """Arrays `xtr`, `ytr` (training; may both be absent) and `xte`, `yte` (evaluation).

    Images are uint8 of shape (N, C, H, W), (N, H, W, C) with C 1 or 3, or (N, H, W) for grey; labels are integers (N,).

    Args:
        limit_train, limit_eval: how many images to keep, evenly over the classes; None keeps all.

    Raises:
        UserError: no such file, a torn one, or one with other arrays; names the array.
    """
    arrays = _arrays(path)
    train_images, train_labels = _part(arrays, "xtr", "ytr", limit_train, path) if "xtr" in arrays else (None, None)
    test_images, test_labels = _part(arrays, "xte", "yte", limit_eval, path)
    if train_images is None or train_labels is None:
        train_images, train_labels = test_images[:0], test_labels[:0]
    if train_images.shape[1] != test_images.shape[1]:
        raise UserError(
            f"{path}: xtr has {train_images.shape[1]} channels, xte has {test_images.shape[1]}; they should have the same"
        )
    largest = max(int(labels.max()) for labels in (train_labels, test_labels) if len(labels))
    return ImageData(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(map(str, range(largest + 1))),
        flips=test_images.shape[1] == 3,
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds one array; an .npz file with xtr, ytr, xte and yte is needed")
        with file:
            arrays = {key: file[key] for key in KEYS if key in file.files}
            present = ", ".join(file.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an .npz file: {str(error).splitlines()[0]}") from None
    wanted = KEYS if "xtr" in arrays or "ytr" in arrays else KEYS[2:]
    for key in wanted:
        if key not in arrays:
            raise UserError(f"{path} has no array '{key}'; it has: {present or 'nothing'}. Needed: {', '.join(wanted)}")
    return arrays


def _part(arrays: dict[str, np.ndarray], x: str, y: str, limit: int | None, path: Path) -> tuple[Tensor, Tensor]:
    """The images (N, C, H, W) and the labels (N,) of one part of the data."""
    images, labels = _channels_first(arrays[x], f"{path}: {x}"), arrays[y]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{path}: {y} is {labels.dtype} of shape {labels.shape}; integers, one per image, are needed")
    if len(labels) != len(images):
        raise UserError(f"{path}: {x} holds {len(images)} images, {y} holds {len(labels)} labels")
    if not len(labels):
        raise UserError(f"{path}: {x} is empty")
    if labels.min() < 0:
        raise UserError(f"{path}: {y} has the label {labels.min()}; labels count from 0")
    chosen = spread(labels.tolist(), limit)
    return torch.from_numpy(np.ascontiguousarray(images[chosen])), torch.from_numpy(labels[chosen].astype(np.int64))


def _channels_first(images: np.ndarray, what: str) -> np.ndarray:
    """Images (N, C, H, W); a view where possible."""
    if images.dtype != np.uint8:
        raise UserError(f"{what} is {images.dtype}; uint8 pixels of 0 to 255 are needed")
    if images.ndim == 3:
        return images[:, None]
    first, last = (images.ndim == 4 and images.shape[axis] in (1, 3) for axis in (1, 3))
    if first and last:
        raise UserError(f"{what} has shape {images.shape}, and either axis could be that of the channels")
    if not first and not last:
        raise UserError(
            f"{what} has shape {images.shape}; (N, C, H, W) or (N, H, W, C) with C of 1 or 3, or (N, H, W), is needed"
        )
    return images if first else images.transpose(0, 3, 1, 2)
