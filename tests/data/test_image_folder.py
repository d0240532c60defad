"""`--data imagefolder:DIR`: which images are read, how they are cut, and what is said of what cannot be read."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data import image_files
from compress.data.image_files import EXTENSIONS, decode, decode_all
from compress.data.image_folder import read_image_folder
from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.progress import watch

pillow = pytest.importorskip("PIL.Image", reason="Pillow is missing; reading image files is not tested")

SMALL = Preprocess(size=(4, 4), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SHADES = {"cat": 10, "dog": 100, "eel": 200}


def shaded(folder: Path, count: int = 3, names: tuple[str, ...] = tuple(SHADES)) -> Path:
    """Folders of PNG files, each class in a shade of its own, each image one brighter than the one before."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pillow.new("RGB", (5, 7), (SHADES[name] + index,) * 3).save(folder / name / f"{index}.png")
    return folder


def shades(images: torch.Tensor, labels: torch.Tensor) -> set[tuple[int, int]]:
    return {(int(image[0, 0, 0]), int(label)) for image, label in zip(images, labels, strict=True)}


def test_other_folders_beside_train_and_val_are_passed_over(tmp_path: Path) -> None:
    shaded(tmp_path / "train")
    shaded(tmp_path / "val", 2)
    (tmp_path / "notes").mkdir()
    data = read_image_folder(tmp_path, SMALL)
    assert (len(data.train_images), len(data.test_images)) == (9, 6)


@pytest.mark.parametrize("evaluation", ["val", "test", "validation", "valid"])
def test_train_and_evaluation_folders(tmp_path: Path, evaluation: str) -> None:
    shaded(tmp_path / "train", 3)
    shaded(tmp_path / evaluation, 2)
    data = read_image_folder(tmp_path, SMALL)
    assert shades(data.train_images, data.train_labels) == {(s + i, n) for n, s in enumerate(SHADES.values()) for i in range(3)}
    assert shades(data.test_images, data.test_labels) == {(s + i, n) for n, s in enumerate(SHADES.values()) for i in range(2)}
    assert data.train_images.shape == (9, 3, 4, 4)
    assert data.classes == ("cat", "dog", "eel")
    assert data.flips


def test_class_folders_alone_are_for_evaluation(tmp_path: Path) -> None:
    data = read_image_folder(shaded(tmp_path), SMALL)
    assert data.train_images.shape == (0, 3, 4, 4)
    assert len(data.test_images) == 9


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        (tmp_path / name).mkdir()
        pillow.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    assert read_image_folder(tmp_path, SMALL).classes == ("bus", "train")


def test_test_images_without_classes_leave_the_evaluation_to_val(tmp_path: Path) -> None:
    shaded(tmp_path / "train")
    shaded(tmp_path / "val", 2)
    (tmp_path / "test").mkdir()
    pillow.new("RGB", (4, 4)).save(tmp_path / "test" / "unknown.png")
    assert len(read_image_folder(tmp_path, SMALL).test_images) == 6


def test_labels_are_the_models(tmp_path: Path) -> None:
    data = read_image_folder(shaded(tmp_path), SMALL, labels=("Eel", "Cat", "bird", "Dog"), outputs=4)
    assert shades(data.test_images, data.test_labels) == {
        (s + i, n) for s, n in zip(SHADES.values(), (1, 3, 0), strict=True) for i in range(3)
    }
    assert data.classes == ("Eel", "Cat", "bird", "Dog")


def test_grey_models_get_grey_images_that_are_not_mirrored(tmp_path: Path) -> None:
    data = read_image_folder(shaded(tmp_path), Preprocess((4, 4), (0.5,), (0.5,), channels=1))
    assert data.test_images.shape == (9, 1, 4, 4)
    assert not data.flips


def test_a_limit_reads_evenly_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shaded(tmp_path / "train", 5)
    shaded(tmp_path / "val", 5)
    opened: list[Path] = []
    monkeypatch.setattr(image_files, "decode", lambda path, preprocess: opened.append(path) or decode(path, preprocess))
    data = read_image_folder(tmp_path, SMALL, limit_train=6, limit_eval=3)
    assert sorted(data.train_labels.tolist()) == [0, 0, 1, 1, 2, 2]
    assert sorted(data.test_labels.tolist()) == [0, 1, 2]
    assert len(opened) == 9


def test_files_are_found_by_extension_in_folders_below_and_hidden_ones_are_not(tmp_path: Path) -> None:
    shaded(tmp_path, 1)
    pillow.new("RGB", (4, 4)).save(tmp_path / "cat" / "x.JPG", "jpeg")
    (tmp_path / "dog" / "more").mkdir()
    pillow.new("RGB", (4, 4)).save(tmp_path / "dog" / "more" / "y.png")
    (tmp_path / "cat" / "readme.txt").write_text("no image")
    (tmp_path / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    data = read_image_folder(tmp_path, SMALL)
    assert len(data.test_images) == 5
    assert data.classes == ("cat", "dog", "eel")


def test_progress_is_reported(tmp_path: Path) -> None:
    seen = []
    with watch(lambda what, done, total, note: seen.append((what, done, total))):
        read_image_folder(shaded(tmp_path), SMALL)
    assert {(what, total) for what, _, total in seen} == {("read evaluation images", 9)}
    assert len(seen) == 9


def test_cutting_is_what_indexing_gives(tmp_path: Path) -> None:
    """An image whose short side has the length asked for is only cut: rows and columns around its centre."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 11, 3), dtype=np.uint8)
    pillow.fromarray(pixels).save(tmp_path / "a.png")
    got = decode(tmp_path / "a.png", Preprocess((4, 4), (0.0,) * 3, (1.0,) * 3, resize=6))
    assert np.array_equal(got.numpy(), pixels[1:5, 4:8].transpose(2, 0, 1))  # (11 - 4) / 2 = 3.5, rounded to even


def test_the_short_side_is_resized_and_the_long_one_follows(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 47, 3), dtype=np.uint8)
    image = pillow.fromarray(pixels)
    image.save(tmp_path / "a.png")
    got = decode(tmp_path / "a.png", Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3, resize=10))
    resized = np.asarray(image.resize((15, 10), pillow.Resampling.BILINEAR))  # 47 * 10 / 30 = 15.67, rounded down
    assert np.array_equal(got.numpy(), resized[1:9, 4:12].transpose(2, 0, 1))


def test_without_a_length_the_whole_image_is_stretched(tmp_path: Path) -> None:
    image = pillow.fromarray(np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    got = decode(tmp_path / "a.png", Preprocess((4, 6), (0.0,) * 3, (1.0,) * 3))
    assert np.array_equal(got.numpy(), np.asarray(image.resize((6, 4), pillow.Resampling.BILINEAR)).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: None, "no such folder: {d}"),
        (
            lambda d: d.mkdir(),
            "{d} is empty; it should hold a folder of images per class, or train/ and val/ (or test/) with these",
        ),
        (lambda d: shaded(d / "train"), "{d} has train/ but neither val/ nor test/ to evaluate on"),
        (
            lambda d: (d / "cat").mkdir(parents=True),
            "{d} holds no images (" + ", ".join(EXTENSIONS) + ") in folders of one class each",
        ),
        (
            lambda d: (shaded(d / "val"), (d / "train" / "cat").mkdir(parents=True)),
            "{d}/train holds no images (" + ", ".join(EXTENSIONS) + ") in folders of one class each",
        ),
    ],
    ids=["missing", "empty", "no evaluation", "empty class", "empty train"],
)
def test_folders_without_what_is_needed(tmp_path: Path, make, message: str) -> None:
    folder = tmp_path / "data"
    make(folder)
    with pytest.raises(UserError) as error:
        read_image_folder(folder, SMALL)
    assert str(error.value) == message.format(d=folder)


def test_classes_that_are_not_the_models(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_image_folder(shaded(tmp_path), SMALL, outputs=10)
    assert str(error.value) == (
        "class-count mismatch: 3 class folders (cat, dog, eel), but the model has 10 outputs and no labels"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"oops", "cannot identify image file {path!r}"), (None, "image file is truncated (4 bytes not processed)")],
    ids=["no image", "torn"],
)
def test_a_corrupt_image_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    shaded(tmp_path, 1)
    path = tmp_path / "dog" / "bad.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pillow.fromarray(noise).save(path)
    path.write_bytes(content or path.read_bytes()[:-500])
    with pytest.raises(UserError) as error:
        read_image_folder(tmp_path, SMALL)
    expected = f"{path} cannot be read as an image: {reason.format(path=str(path))}"
    assert str(error.value).partition(" (")[0] == expected.partition(" (")[0]


def test_more_images_than_memory_holds_are_refused_before_reading() -> None:
    with pytest.raises(UserError) as error:
        decode_all([Path("a.png")] * 10**8, Preprocess((10_000, 10_000), (0.0,) * 3, (1.0,) * 3), "read training images")
    text = str(error.value)
    assert text.startswith("read training images: 100000000 images need 30000000.0 GB, more than half of this machine's ")
    assert text.endswith(" GB; take fewer with --limit-train and --limit-eval")


def test_without_pillow_the_install_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shaded(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError) as error:
        read_image_folder(tmp_path, SMALL)
    assert str(error.value) == "reading image files needs Pillow; install it with: pip install 'compress-toolkit[vision]'"


def test_bicubic_models_get_bicubic_pixels(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = pillow.fromarray(noise)
    image.save(path)
    for name, method in (("bilinear", pillow.Resampling.BILINEAR), ("bicubic", pillow.Resampling.BICUBIC)):
        preprocess = Preprocess((16, 16), (0.5,) * 3, (0.5,) * 3, interpolation=name)
        wanted = np.asarray(image.resize((16, 16), method)).transpose(2, 0, 1)
        assert np.array_equal(decode(path, preprocess).numpy(), wanted)
