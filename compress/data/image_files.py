"""Image files as tensors of the size that a network takes. Needs Pillow, of the extra `vision`."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.progress import track

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")


def images_under(folder: Path) -> list[Path]:
    """The image files in a folder and the folders in it, by extension, sorted; hidden ones are passed over."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in files if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
    return sorted(found)


def decode(path: Path, preprocess: Preprocess) -> Tensor:
    """One image file as uint8 (channels, *preprocess.size): its short side resized, then the centre; or stretched.

    Raises:
        UserError: Pillow is missing, or the file is corrupt or no image.
    """
    pillow = _pillow()
    height, width = preprocess.size
    try:
        with pillow.open(path) as file:
            image = file.convert("L" if preprocess.channels == 1 else "RGB")
        bicubic = preprocess.interpolation == "bicubic"
        method = pillow.Resampling.BICUBIC if bicubic else pillow.Resampling.BILINEAR
        if preprocess.resize is None:
            image = image.resize((width, height), method)
        else:
            scale = preprocess.resize / min(image.size)
            # The short side exactly, the long one rounded down, as torchvision does.
            size = tuple(preprocess.resize if side == min(image.size) else int(side * scale) for side in image.size)
            image = image.resize(size, method)
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            image = image.crop((left, top, left + width, top + height))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from None
    pixels = np.array(image)
    return torch.from_numpy(pixels.reshape(height, width, -1).transpose(2, 0, 1).copy())


def decode_all(paths: Sequence[Path], preprocess: Preprocess, what: str) -> Tensor:
    """Image files as uint8 (N, channels, *preprocess.size), in order, decoded on all cores.

    Raises:
        UserError: as `decode`; or they need more than half of this machine's memory.
    """
    shape = (len(paths), preprocess.channels, *preprocess.size)
    _check_memory(int(np.prod(shape)), len(paths), what)
    images = torch.empty(shape, dtype=torch.uint8)
    pool = ThreadPoolExecutor()  # Pillow lets other threads run while it decodes
    try:
        for index, image in enumerate(track(pool.map(lambda path: decode(path, preprocess), paths), what, len(paths))):
            images[index] = image
    finally:
        pool.shutdown(cancel_futures=True)
    return images


def _check_memory(needed: int, count: int, what: str) -> None:
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory / 2:
        raise UserError(
            f"{what}: {count} images need {needed / 1e9:.1f} GB, more than half of this machine's {memory / 1e9:.1f} GB; "
            "take fewer with --limit-train and --limit-eval"
        )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("reading image files needs Pillow; install it with: pip install 'compress-toolkit[vision]'") from error
    return Image
