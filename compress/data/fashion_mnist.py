"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 70,000 grey images of clothes, 28x28, ten classes. MIT licence.

The package carries the whole test set and the first 20,000 training images, in the data set's own idx format.
"""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.data.images import ImageData
from compress.errors import UserError

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
BUNDLED = Path(__file__).parent / "fashion_mnist_sample"
FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def read_idx(path: Path) -> Tensor:
    """The uint8 array of any rank that a gzipped idx file holds.

    Raises:
        UserError: the file is missing, torn, or not of this format.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        rank = content[3]
        shape = np.frombuffer(content, ">u4", rank, 4)
        if content[:3] != b"\x00\x00\x08":
            raise ValueError("no idx header of unsigned bytes")
        return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy())
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise UserError(f"{path} cannot be read as a gzipped idx file: {error}") from None


def read_folder(folder: Path) -> ImageData:
    """The data set from a folder with the four files in `FILES`."""
    part = {name: read_idx(folder / file) for name, file in FILES.items()}
    return ImageData(
        train_images=part["train_images"].unsqueeze(1),
        train_labels=part["train_labels"].long(),
        test_images=part["test_images"].unsqueeze(1),
        test_labels=part["test_labels"].long(),
        classes=CLASSES,
    )
