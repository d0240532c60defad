"""Fashion-MNIST from idx files: the bundled part, a folder of the user's, and the download."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data import fashion_mnist_full
from compress.data.download import fetch
from compress.data.fashion_mnist import BUNDLED, CLASSES, FILES, read_folder, read_idx
from compress.data.fashion_mnist_full import VARIABLE, read_full
from compress.errors import UserError
from compress.progress import watch

INSTEAD = f"give a folder with the four files: fashion-mnist-full:FOLDER, or the variable {VARIABLE}"
NOWHERE = "http://127.0.0.1:9/"  # the discard port: refused at once


def idx(array: np.ndarray) -> bytes:
    """A gzipped idx file, as its format page describes it: magic number, sizes, bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.tobytes())


def tiny_set(folder: Path, shade: int = 0) -> Path:
    """A folder with the four files: 4 training and 2 test images of one grey each."""
    folder.mkdir(parents=True)
    for name, count in (("train", 4), ("test", 2)):
        (folder / FILES[f"{name}_images"]).write_bytes(idx(np.full((count, 28, 28), shade, np.uint8)))
        (folder / FILES[f"{name}_labels"]).write_bytes(idx(np.arange(count, dtype=np.uint8)))
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, package, cache, proxy or network of the machine at hand has a say."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fashion_mnist_full, "DEBIAN", tmp_path / "no-debian")
    monkeypatch.setattr(fashion_mnist_full, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(fashion_mnist_full, "URL", NOWHERE)


def test_the_bundled_part() -> None:
    data = read_folder(BUNDLED)
    assert data.test_images.shape == (10_000, 1, 28, 28)
    assert data.train_images.shape == (20_000, 1, 28, 28)
    assert torch.bincount(data.test_labels).tolist() == [1000] * 10
    assert data.classes == CLASSES


def test_read_idx_gives_back_what_was_written(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (2, 3, 4), dtype=np.uint8)
    (tmp_path / "a.gz").write_bytes(idx(array))
    assert np.array_equal(read_idx(tmp_path / "a.gz").numpy(), array)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"oops", "Not a gzipped file (b'oo')"),
        (idx(np.zeros((2, 2), np.uint8))[:-9], "Compressed file ended before the end-of-stream marker was reached"),
        (gzip.compress(b"\0\0\x0d\1" + bytes(8)), "no idx header of unsigned bytes"),
    ],
    ids=["no gzip", "torn", "floats"],
)
def test_files_that_are_no_idx(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_idx(path)
    assert str(error.value) == f"{path} cannot be read as a gzipped idx file: {reason}"


def test_the_whole_set_comes_from_the_first_place_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is named, then the variable, then the Debian package, then the cache."""
    places = [tiny_set(tmp_path / name, shade) for shade, name in enumerate(("named", "variable", "debian"))]
    monkeypatch.setattr(fashion_mnist_full, "CACHE", tiny_set(tmp_path / "cached", 3))
    monkeypatch.setattr(fashion_mnist_full, "DEBIAN", places[2])
    monkeypatch.setenv(VARIABLE, str(places[1]))
    found = [int(read_full(str(places[0])).train_images[0, 0, 0, 0]), int(read_full().train_images[0, 0, 0, 0])]
    monkeypatch.delenv(VARIABLE)
    found.append(int(read_full().train_images[0, 0, 0, 0]))
    (places[2] / FILES["test_labels"]).unlink()  # an incomplete package is passed over
    found.append(int(read_full().train_images[0, 0, 0, 0]))
    assert found == [0, 1, 2, 3]


def test_a_folder_without_the_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_full(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path} holds no train-images-idx3-ubyte.gz; the four files of Fashion-MNIST are needed there: "
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz"
    )


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_full()
    assert str(error.value) == (
        f"{NOWHERE}train-images-idx3-ubyte.gz could not be downloaded ([Errno 111] Connection refused); {INSTEAD}"
    )
    assert not list((tmp_path / "cache").iterdir())


def test_the_download_is_checked_kept_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tiny_set(tmp_path / "server", 5)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in server.iterdir()}
    monkeypatch.setattr(fashion_mnist_full, "URL", server.as_uri() + "/")
    monkeypatch.setattr(fashion_mnist_full, "SHA256", sums)
    seen: list[str] = []
    with watch(lambda what, done, total, note: seen.append(what)):
        assert int(read_full().test_images[0, 0, 0, 0]) == 5
    assert set(seen) == {f"download {name}" for name in FILES.values()}
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(FILES.values())
    monkeypatch.setattr(fashion_mnist_full, "URL", NOWHERE)
    assert int(read_full().test_images[0, 0, 0, 0]) == 5


def test_other_data_than_expected_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"other")
    url, target = (tmp_path / "given").as_uri(), tmp_path / "kept" / "file"
    with pytest.raises(UserError) as error:
        fetch(url, target, "00ff", "look elsewhere")
    found = hashlib.sha256(b"other").hexdigest()
    assert str(error.value) == f"{url} gave other data than expected (SHA-256 {found}, not 00ff); look elsewhere"
    assert not list(target.parent.iterdir())


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"data")
    (tmp_path / "file").write_bytes(b"")
    target = tmp_path / "file" / "below"
    with pytest.raises(UserError) as error:
        fetch((tmp_path / "given").as_uri(), target, "", "look elsewhere")
    assert str(error.value) == f"{target} cannot be written: File exists"
