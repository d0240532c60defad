"""Labelled sentences in a file of one JSON object per line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.data.labels import match
from compress.errors import UserError


@dataclass(frozen=True)
class Sentence:
    """A line of the file. `label` is a class name or number, `part` is `train` or `test`, `line` counts from 1."""

    text: str
    label: str | int
    part: str
    line: int


def read_sentences(path: Path) -> list[Sentence]:
    """The lines `{"text": ..., "label": ..., "split": "train" or "test"}`; without `split`, every fifth is for evaluation.

    Raises:
        UserError: no such file, an empty one, or a line that is not of this form; names the line.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        lines = [(number, line) for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    if not lines:
        raise UserError(f'{path} is empty; one JSON object per line is needed: {{"text": ..., "label": ...}}')
    sentences = [_sentence(path, number, line, index) for index, (number, line) in enumerate(lines)]
    splits = {"split" in json.loads(line) for _, line in lines}
    if len(splits) > 1:
        raise UserError(f"{path}: some lines have a 'split' and others have none; give it on all lines or on none")
    if not any(sentence.part == "test" for sentence in sentences):
        raise UserError(f'{path} has no line to evaluate on: with "split": "test", or without any \'split\' at least 5 lines')
    return sentences


def _sentence(path: Path, number: int, line: str, index: int) -> Sentence:
    where = f"{path}, line {number}"
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise UserError(f'{where} has no text; a line is {{"text": "...", "label": NUMBER or NAME}}')
    label = value.get("label")
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise UserError(f"{where}: the label must be a number or a name, got {json.dumps(label)}")
    part = value.get("split", "test" if index % 5 == 4 else "train")
    if part not in ("train", "test"):
        raise UserError(f"{where}: split must be 'train' or 'test', got {json.dumps(part)}")
    return Sentence(value["text"], label, part, number)


def label_numbers(sentences: Sequence[Sentence], labels: Sequence[str], outputs: int | None, path: Path) -> list[int]:
    """The model's output for each sentence's label; see `compress.data.labels.match` for names.

    Raises:
        UserError: numbers beside names, a number that is no output, or names that are not the model's.
    """
    kinds = {type(sentence.label) for sentence in sentences}
    if len(kinds) > 1:
        first = type(sentences[0].label)
        other = next(sentence for sentence in sentences if type(sentence.label) is not first)
        raise UserError(
            f"{path}, line {other.line}: the label {other.label!r} is of another kind than {sentences[0].label!r} on line "
            f"{sentences[0].line}; all should be numbers, or all names"
        )
    if kinds == {str}:
        index = match([str(sentence.label) for sentence in sentences], labels, outputs, "labels of the data")
        return [index[str(sentence.label)] for sentence in sentences]
    for sentence in sentences:
        if int(sentence.label) < 0 or (outputs is not None and int(sentence.label) >= outputs):
            allowed = f"0 to {outputs - 1}" if outputs else "0 or more"
            raise UserError(
                f"class-count mismatch: {path}, line {sentence.line} has the label {sentence.label}; the model's are {allowed}"
            )
    return [int(sentence.label) for sentence in sentences]
