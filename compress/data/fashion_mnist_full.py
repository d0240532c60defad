"""The whole of Fashion-MNIST, 60,000 + 10,000 images: from a folder here, or downloaded once."""

import os
from pathlib import Path

from compress import files
from compress.data.download import fetch
from compress.data.fashion_mnist import FILES, read_folder
from compress.data.images import ImageData
from compress.errors import UserError

VARIABLE = "COMPRESS_FASHION_MNIST"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CACHE = files.CACHE / "fashion-mnist"
# Where the authors publish it; the MD5 sums on their page and these are of the same files. There is no https, but the sums
# leave no room for other data. (The Debian package holds the same idx files, packed anew: its sums differ.)
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SHA256 = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def read_full(folder: str = "") -> ImageData:
    """The data set from `folder`; else from the folder that the variable `COMPRESS_FASHION_MNIST` names; else from where the
    Debian package `dataset-fashion-mnist` puts it; else from the cache in the home folder, downloaded (31 MB) where needed.

    Raises:
        UserError: the folder lacks a file, or there is no network.
    """
    named = folder or os.environ.get(VARIABLE, "")
    if named or _is_complete(DEBIAN):
        place = Path(named).expanduser() if named else DEBIAN
        missing = [name for name in FILES.values() if not (place / name).is_file()]
        if missing:
            raise UserError(
                f"{place} holds no {missing[0]}; the four files of Fashion-MNIST are needed there: {', '.join(FILES.values())}"
            )
        return read_folder(place)
    cache = CACHE.expanduser()
    instead = f"give a folder with the four files: fashion-mnist-full:FOLDER, or the variable {VARIABLE}"
    for name, sha256 in SHA256.items():
        fetch(URL + name, cache / name, sha256, instead)
    return read_folder(cache)


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES.values())
