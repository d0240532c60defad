"""`--data jsonl:FILE`: lines, labels, tokens, and a task whose parts do not mix."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data.sentences import label_numbers, read_sentences
from compress.data.text import text_task
from compress.errors import UserError

INPUTS = ("input_ids", "attention_mask")


class Words:
    """A tokenizer for words that are numbers: 1 begins, the words follow, 2 ends, 0 pads."""

    pad_token: str | None = "[PAD]"
    model_max_length = 8

    def __call__(self, texts, padding, truncation, max_length, return_tensors):
        assert (padding, truncation, return_tensors) == ("max_length", True, "pt")
        rows = [[1, *[int(word) for word in text.split()][: max_length - 2], 2] for text in texts]
        padded = [row + [0] * (max_length - len(row)) for row in rows]
        ids = torch.tensor(padded)
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.zeros_like(ids)}


def written(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def numbered(folder: Path, count: int, **more: object) -> Path:
    """Sentence n is the word 10 + n; its label is n modulo 3."""
    return written(folder, *({"text": str(10 + n), "label": n % 3, **more} for n in range(count)))


def sentences_in(batch: tuple[torch.Tensor, ...]) -> list[int]:
    return (batch[0][:, 1] - 10).tolist()


def seen_by(evaluate) -> list[int]:
    seen: list[int] = []

    def predict(*inputs: torch.Tensor) -> np.ndarray:
        seen.extend(sentences_in(inputs))
        return np.zeros((len(inputs[0]), 3), np.float32)

    evaluate(predict)
    return seen


def test_every_fifth_line_is_for_evaluation_and_every_tenth_of_the_rest_for_choosing(tmp_path: Path) -> None:
    task = text_task(numbered(tmp_path, 100), Words(), INPUTS, outputs=3)
    trained = {n for batch in task.train() for n in sentences_in(batch)}
    validated, evaluated = set(seen_by(task.validate)), set(seen_by(task.evaluate))
    calibrated = {n for batch in task.calibration() for n in sentences_in(batch)}
    assert evaluated == set(range(4, 100, 5))
    assert len(validated) == 8
    assert not validated & (trained | calibrated | evaluated)
    assert not evaluated & (trained | calibrated)
    assert trained | calibrated | validated | evaluated == set(range(100))


def test_labels_and_inputs_belong_together(tmp_path: Path) -> None:
    task = text_task(numbered(tmp_path, 100), Words(), INPUTS, outputs=3, batch=16)
    for ids, mask, labels in task.train():
        assert labels.tolist() == [n % 3 for n in sentences_in((ids,))]
        assert torch.equal(mask, (ids != 0).long())
    assert task.evaluate(lambda ids, mask: np.eye(3)[[n % 3 for n in sentences_in((ids,))]]) == 1.0
    assert [tuple(x.shape) for x in task.example_inputs] == [(2, 8), (2, 8)]


def test_inputs_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    task = text_task(numbered(tmp_path, 20), Words(), ("attention_mask", "input_ids"), outputs=3)
    mask, ids = task.example_inputs
    assert set(mask.unique().tolist()) == {0, 1}
    assert int(ids.max()) >= 10


def test_a_split_in_the_file_is_kept(tmp_path: Path) -> None:
    lines = [{"text": str(10 + n), "label": 0, "split": "test" if n < 7 else "train"} for n in range(40)]
    task = text_task(written(tmp_path, *lines), Words(), INPUTS, outputs=2)
    assert sorted(seen_by(task.evaluate)) == list(range(7))


def test_without_training_lines_calibration_is_taken_out_of_the_evaluation(tmp_path: Path) -> None:
    task = text_task(numbered(tmp_path, 50, split="test"), Words(), INPUTS, outputs=3)
    calibrated = [n for batch in task.calibration() for n in sentences_in(batch)]
    evaluated = seen_by(task.evaluate)
    assert len(calibrated) == 5
    assert sorted(calibrated + evaluated) == list(range(50))
    assert task.train is None
    assert task.validate is None


def test_limits_take_evenly(tmp_path: Path) -> None:
    task = text_task(numbered(tmp_path, 300), Words(), INPUTS, outputs=3, limit_train=30, limit_eval=6)
    assert sorted(n % 3 for n in seen_by(task.evaluate)) == [0, 0, 1, 1, 2, 2]
    assert len(seen_by(task.validate)) == 3


def test_the_length_is_the_tokenizers_or_128(tmp_path: Path) -> None:
    long = Words()
    long.model_max_length = 512
    assert text_task(numbered(tmp_path, 20), long, INPUTS, outputs=3).example_inputs[0].shape == (2, 128)


def test_names_are_mapped_to_the_models_labels(tmp_path: Path) -> None:
    path = written(tmp_path, *({"text": "3", "label": name} for name in ("good", "bad", "good", "bad", "good")))
    sentences = read_sentences(path)
    assert label_numbers(sentences, ("BAD", "Neutral", "GOOD"), 3, path) == [2, 0, 2, 0, 2]
    assert label_numbers(sentences, (), 2, path) == [1, 0, 1, 0, 1]


GOOD = {"text": "3", "label": 0}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], ' is empty; one JSON object per line is needed: {"text": ..., "label": ...}'),
        ([GOOD, "{oops"], ", line 2 is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ([GOOD, "", {"label": 1}], ', line 3 has no text; a line is {"text": "...", "label": NUMBER or NAME}'),
        ([{"text": "3"}], ", line 1: the label must be a number or a name, got null"),
        ([{"text": "3", "label": 1.5}], ", line 1: the label must be a number or a name, got 1.5"),
        ([{"text": "3", "label": True}], ", line 1: the label must be a number or a name, got true"),
        ([{**GOOD, "split": "dev"}], ", line 1: split must be 'train' or 'test', got \"dev\""),
        ([GOOD, {**GOOD, "split": "test"}], ": some lines have a 'split' and others have none; give it on all lines or on none"),
        ([GOOD] * 4, ' has no line to evaluate on: with "split": "test", or without any \'split\' at least 5 lines'),
    ],
)
def test_lines_that_cannot_be_read_are_named(tmp_path: Path, lines: list[object], message: str) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(UserError) as error:
        read_sentences(path)
    assert str(error.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("labels_in_file", "labels", "outputs", "message"),
    [
        ([0, 1, 2, 3, 0], (), 3, "class-count mismatch: {path}, line 4 has the label 3; the model's are 0 to 2"),
        ([0, -1, 0, 0, 0], (), None, "class-count mismatch: {path}, line 2 has the label -1; the model's are 0 or more"),
        (
            [0, 1, "good", 0, 0],
            (),
            3,
            "{path}, line 3: the label 'good' is of another kind than 0 on line 1; all should be numbers, or all names",
        ),
        (
            ["x", "y", "x", "y", "x"],
            ("good", "bad"),
            2,
            "none of the labels of the data is a label of the model; labels of the data: x, y; labels: good, bad",
        ),
        (
            ["x", "y", "x", "y", "x"],
            (),
            3,
            "class-count mismatch: 2 labels of the data (x, y), but the model has 3 outputs and no labels",
        ),
    ],
)
def test_labels_that_are_not_the_models(tmp_path: Path, labels_in_file, labels, outputs, message: str) -> None:
    path = written(tmp_path, *({"text": "3", "label": label} for label in labels_in_file))
    with pytest.raises(UserError) as error:
        text_task(path, Words(), INPUTS, labels, outputs)
    assert str(error.value) == message.format(path=path)


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_sentences(tmp_path / "gone.jsonl")
    assert str(error.value) == f"no such file: {tmp_path / 'gone.jsonl'}"
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError) as error:
        read_sentences(tmp_path / "binary.jsonl")
    reason = "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    assert str(error.value) == f"{tmp_path / 'binary.jsonl'} is not UTF-8 text: {reason}"


def test_a_tokenizer_that_cannot_pad(tmp_path: Path) -> None:
    unable = Words()
    unable.pad_token = None
    with pytest.raises(UserError) as error:
        text_task(numbered(tmp_path, 10), unable, INPUTS, outputs=3)
    assert str(error.value) == "the model's tokenizer has no padding token, so sentences cannot be brought to one length"
