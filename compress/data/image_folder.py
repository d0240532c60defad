"""`--data imagefolder:DIR`: a folder of images per class."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from compress.data.image_files import EXTENSIONS, decode_all, images_under
from compress.data.images import ImageData
from compress.data.labels import match
from compress.data.preprocess import Preprocess
from compress.data.subset import spread
from compress.errors import UserError

TRAIN = "train"
# Where there are several, the first that has classes is evaluated: ImageNet's test images, for one, have none.
EVALUATION = ("test", "val", "validation", "valid")


def read_image_folder(
    folder: Path,
    preprocess: Preprocess,
    labels: Sequence[str] = (),
    outputs: int | None = None,
    limit_train: int | None = None,
    limit_eval: int | None = None,
) -> ImageData:
    """The images in `folder/train/CLASS/` and `folder/val/CLASS/` (or `test/`); or in `folder/CLASS/`, for evaluation only.

    Args:
        preprocess: decides the size at which images are kept.
        labels, outputs: of the model; see `compress.data.labels.match`.
        limit_train, limit_eval: how many images to read, evenly over the classes; None reads all.

    Raises:
        UserError: an empty folder, one without classes, a corrupt image, or classes that are not the model's.
    """
    train, test = _splits(folder)
    files = {place: {path.name: images_under(path) for path in _folders(place)} for place in (train, test) if place}
    for place, classes in files.items():
        if not any(classes.values()):
            raise UserError(f"{place} holds no images ({', '.join(EXTENSIONS)}) in folders of one class each")
    index = match([name for classes in files.values() for name in classes], labels, outputs, "class folders")

    def read(place: Path, limit: int | None, what: str) -> tuple[Tensor, Tensor]:
        pairs = [(path, index[name]) for name, paths in files[place].items() for path in paths]
        chosen = [pairs[i] for i in spread([label for _, label in pairs], limit)]
        return decode_all([path for path, _ in chosen], preprocess, what), torch.tensor([label for _, label in chosen])

    empty = torch.empty((0, preprocess.channels, *preprocess.size), dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    train_images, train_labels = read(train, limit_train, "read training images") if train else empty
    test_images, test_labels = read(test, limit_eval, "read evaluation images")
    return ImageData(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(labels) or tuple(sorted(index)),
        flips=preprocess.channels == 3,
    )


def _splits(folder: Path) -> tuple[Path | None, Path]:
    """The folders with classes for training, if any, and for evaluation."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    inside = [path.name for path in _folders(folder)]
    if not inside:
        raise UserError(
            f"{folder} is empty; it should hold a folder of images per class, or train/ and val/ (or test/) with these"
        )
    evaluation = [folder / name for name in EVALUATION if name in inside]
    # `train` alone may be a class, beside `bus` and `car`.
    if not (TRAIN in inside and evaluation) and not set(inside) <= {TRAIN, *EVALUATION}:
        return None, folder
    if not evaluation:
        raise UserError(f"{folder} has {TRAIN}/ but neither val/ nor test/ to evaluate on")
    chosen = next((place for place in evaluation if _folders(place)), evaluation[0])
    return (folder / TRAIN if TRAIN in inside else None), chosen


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
