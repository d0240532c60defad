"""Names of classes find their output of the model, or one line says why not."""

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

from compress.data.labels import match, shortened
from compress.errors import UserError

IMAGENET = ("tench, Tinca tinca", "great white shark, white shark", "crane", "crane, machine", "crane")


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["cat", "dog"], ("dog", "cat"), {"cat": 1, "dog": 0}),
        (["Cat", "DOG"], ("dog", "cat"), {"Cat": 1, "DOG": 0}),
        (["Tinca_tinca", "white_shark"], IMAGENET, {"Tinca_tinca": 0, "white_shark": 1}),
        (["great white shark, white shark"], IMAGENET, {"great white shark, white shark": 1}),
        (["crane, machine"], IMAGENET, {"crane, machine": 3}),
        (["3", "0"], ("a", "b", "c", "d"), {"3": 3, "0": 0}),
        (["0003", "0000"], ("a", "b", "c", "d"), {"0003": 3, "0000": 0}),
        (["1", "0"], ("1", "0"), {"1": 0, "0": 1}),  # the model's own names come first
    ],
)
def test_names_find_labels(names: list[str], labels: tuple[str, ...], expected: dict[str, int]) -> None:
    assert match(names, labels, len(labels), "class folders") == expected


@pytest.mark.parametrize(
    ("names", "outputs", "expected"),
    [
        (["b", "a", "c"], 3, {"a": 0, "b": 1, "c": 2}),
        (["b", "a"], None, {"a": 0, "b": 1}),
        (["10", "9", "2"], 11, {"10": 10, "9": 9, "2": 2}),  # numbers are no words: 10 comes after 9
        (["1", "2", "3"], 3, {"1": 0, "2": 1, "3": 2}),  # counted from 1, so no numbers of outputs
    ],
)
def test_a_model_without_labels_takes_numbers_or_the_alphabet(names: list[str], outputs: int | None, expected: dict) -> None:
    assert match(names, (), outputs, "class folders") == expected


@pytest.mark.parametrize(
    ("names", "labels", "outputs", "message"),
    [
        (
            ["apple", "pear"],
            ("cat", "dog"),
            2,
            "none of the class folders is a label of the model; class folders: apple, pear; labels: cat, dog",
        ),
        (
            ["apple", "pear"],
            tuple(f"label {n}" for n in range(30)),
            30,
            "none of the class folders is a label of the model; class folders: apple, pear; "
            "labels: label 0, label 1, label 2, label 3, label 4, ... (30)",
        ),
        (
            ["cat", "dogg"],
            ("cat", "dog"),
            2,
            "1 of the 2 class folders are no label of the model: dogg. Did you mean 'dog'?",
        ),
        (
            ["crane", "tench"],
            IMAGENET,
            5,
            "'crane' names several outputs of the model: 2, 4; name all class folders by number instead",
        ),
        (
            ["a", "b", "c"],
            (),
            10,
            "class-count mismatch: 3 class folders (a, b, c), but the model has 10 outputs and no labels",
        ),
        (
            ["7", "1"],
            ("cat", "dog"),
            2,
            "none of the class folders is a label of the model; class folders: 1, 7; labels: cat, dog",
        ),
    ],
)
def test_what_does_not_fit_is_said(names: list[str], labels: tuple[str, ...], outputs: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        match(names, labels, outputs, "class folders")
    assert str(error.value) == message


def synsets(count: int) -> list[str]:
    return [f"n{1_000_000 + 7 * n:08d}" for n in range(count)]


def timm_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm be found in `folder`, or nowhere if that is empty."""
    spec = importlib.machinery.ModuleSpec("timm", None, origin=str(folder / "__init__.py")) if any(folder.iterdir()) else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_all_synsets_are_numbered_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm_at(tmp_path, monkeypatch)
    names = synsets(1000)
    assert match(reversed(names), (), 1000, "class folders") == {name: n for n, name in enumerate(names)}


def test_some_synsets_need_the_list_in_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm_at(tmp_path, monkeypatch)
    with pytest.raises(UserError) as error:
        match(synsets(4), (), 1000, "class folders")
    assert str(error.value) == (
        "the class folders are some of ImageNet's 1000 synsets: n01000000, n01000007, ... (4); which outputs they mean is listed "
        "in the package timm; install it with: pip install timm, or name the classes by number"
    )
    (tmp_path / "data" / "_info").mkdir(parents=True)
    (tmp_path / "data" / "_info" / "imagenet_synsets.txt").write_text("\n".join(synsets(1000)))
    timm_at(tmp_path, monkeypatch)
    assert match(synsets(1000)[::2], (), 1000, "class folders") == {name: 2 * n for n, name in enumerate(synsets(1000)[::2])}
    with pytest.raises(UserError) as error:
        match([*synsets(3), "n99999999"], (), 1000, "class folders")
    assert str(error.value) == "1 of the 4 class folders are synsets that ImageNet-1k does not have: n99999999"


def test_shortened() -> None:
    assert shortened(["a", "b", "c"]) == "a, b, c"
    assert shortened(list("abcdefgh"), 2) == "a, b, ... (8)"
