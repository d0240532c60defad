"""Tensors out of whatever a model returns."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from compress import outputs
from compress.outputs import first_tensor, predictor, small_parts, tensors

A, B, C = (torch.full((2, 3), float(value)) for value in (1, 2, 3))


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (A, ["logits"]),
        ((A,), ["logits"]),
        ([A, None], ["logits"]),
        ((A, B), ["output_0", "output_1"]),
        ([A, (B, None, C)], ["output_0", "output_1", "output_2"]),
        ({"out": A}, ["logits"]),
        ({"out": A, "loss": None, "hidden": (B, C)}, ["out", "hidden_0", "hidden_1"]),
        ({"out": {"main": A, "aux": B}}, ["out_0", "out_1"]),
        (ImageClassifierOutput(logits=A), ["logits"]),
        (ImageClassifierOutput(logits=A, hidden_states=(B, C)), ["logits", "hidden_states_0", "hidden_states_1"]),
    ],
)
def test_names_of_tensors_in_their_order(output: Any, names: list[str]) -> None:
    found = tensors(output)
    assert list(found) == names
    assert all(tensor is expected for tensor, expected in zip(found.values(), (A, B, C), strict=False))
    assert first_tensor(output) is A


def test_anything_else_is_told() -> None:
    with pytest.raises(TypeError) as error:
        tensors("logits")
    assert str(error.value) == "the model's forward returns a str; a tensor, sequence or mapping of tensors is needed"


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.dropout(x * y).bfloat16(), y


def test_a_predictor_gives_the_first_output_as_an_array() -> None:
    predict = predictor(Halves().train())
    found = predict(A, B.numpy())
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert np.array_equal(found, (A * B).numpy())  # in eval mode: dropout is off


def test_parts_hold_few_numbers_and_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "PART_ELEMENTS", 25)
    x, mask = torch.arange(70.0).view(7, 10), torch.arange(7).view(7, 1)
    parts = small_parts(nn.Identity(), (x, mask))
    assert [len(part[0]) for part in parts] == [2, 2, 2, 1]
    assert all(torch.equal(torch.cat(each), whole) for each, whole in zip(zip(*parts, strict=True), (x, mask), strict=True))
    assert [len(part[0]) for part in small_parts(nn.Identity(), (torch.zeros(2, 100),))] == [1, 1]  # one is more than that
