"""Holding two sets of outputs against each other, and which inputs they are computed on."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress import parity as module
from compress.errors import ParityError, UserError
from compress.parity import LEAST_SAMPLES, TIE, Comparison, Parity, check_parity
from compress.task import Predict, Task


def scores(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


# The range of the outputs is 10 in all of these, so a tie is closer than 0.001 in fp32 and 10 / 255 in int8.
TORCH = scores([0, 10, 5], [9, 1, 2], [4, 3, 3.9995], [7, 6.98, 0])


def compare(expected: np.ndarray, found: np.ndarray, kind: str, on: str = "evaluation", batch: int = 2) -> Parity:
    comparison = Comparison()
    for start in range(0, len(expected), batch):
        comparison.add(expected[start : start + batch], found[start : start + batch])
    return comparison.parity(kind, on)


def test_equal_outputs_agree() -> None:
    assert compare(TORCH, TORCH, "fp32") == Parity(1.0, 0.0, samples=4, ties=0, on="evaluation")


def test_another_winner_counts_against_and_a_tie_does_not_count() -> None:
    found = TORCH.copy()
    found[0] = [10, 0, 5]  # plainly another class: one error
    found[2] = [3, 3, 4]  # 4 against 3.9995 in torch: a tie in fp32
    found[3] = [6, 7, 0]  # 7 against 6.98: a tie in int8 only
    fp32 = compare(TORCH, found, "fp32", "noisy examples")
    assert (fp32.samples, fp32.ties, fp32.on) == (4, 1, "noisy examples")
    assert fp32.top1_agreement == pytest.approx(1 / 3)  # of the three that count, one agrees
    int8 = compare(TORCH, found, "int8")
    assert int8.ties == 2
    assert int8.top1_agreement == pytest.approx(1 / 2)
    assert int8.max_rel_error == pytest.approx(10 / 10)


def test_nothing_but_ties_is_agreement() -> None:
    assert compare(scores([0, 10, 9.9999]), scores([0, 10, 10.0001]), "fp32").top1_agreement == 1.0


def test_the_error_is_relative_to_the_range_of_torchs_outputs() -> None:
    assert compare(scores([-20, 30]), scores([-20, 29]), "fp32").max_rel_error == pytest.approx(1 / 50)


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 3, 2, 2)], ids=["tokens, classes", "classes, rows, columns"])
def test_each_position_has_a_winner_of_its_own(shape: tuple[int, ...]) -> None:
    expected = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    axis = 1 if len(shape) == 4 else -1
    found = expected.copy()
    found[0] = np.roll(found[0], 1, axis=axis if axis < 0 else axis - 1)  # every position of the first sample
    parity = compare(expected, found, "fp32")
    positions = expected.size // 3
    assert parity.top1_agreement == pytest.approx(1 - positions / 5 / positions)
    assert parity.samples == 5


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_single_output_agrees_within_a_ties_width(shape: tuple[int, ...]) -> None:
    expected = np.array([0, 1, 2, 10], np.float32).reshape(shape)
    error = np.array([0, 0.0009, 0.0011, 0], np.float32).reshape(shape)
    parity = compare(expected, expected + error, "fp32")
    assert (parity.top1_agreement, parity.samples, parity.ties) == (0.75, 4, 0)
    assert compare(expected, expected + error, "int8").top1_agreement == 1.0


def test_the_widths_of_a_tie() -> None:
    assert TIE == {"fp32": 1e-4, "fp16": 1e-3, "int8": 1 / 255}


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def sending(*batches: Tensor, then: Callable[[np.ndarray], Any] = lambda scores: None) -> Task:
    def evaluate(predict: Predict) -> float:
        for batch in batches:
            then(predict(batch))
        return 1.0

    return Task(example_inputs=(torch.zeros(1, 3),), evaluate=evaluate)


@pytest.mark.parametrize(("kind", "wrong"), [("fp32", 0), ("fp16", 2), ("int8", 1)])
def test_how_many_of_a_hundred_may_differ(kind: str, wrong: int) -> None:
    x = torch.tensor([[0.0, 1.0]] * 100)

    def differing(count: int) -> Callable[..., np.ndarray]:
        return lambda x: np.array([[2.0, 0.0]] * count + [[0.0, 2.0]] * (len(x) - count), np.float32)

    assert check_parity(Doubles(), differing(wrong), sending(x), kind, "a file").top1_agreement == 1 - wrong / 100
    with pytest.raises(ParityError):
        check_parity(Doubles(), differing(wrong + 1), sending(x), kind, "a file")


def test_parity_holds_for_the_same_function() -> None:
    parity = check_parity(Doubles(), lambda x: np.asarray(x) * 2, sending(torch.randn(100, 3)), "fp32", "model.onnx")
    assert parity == Parity(1.0, 0.0, samples=100, ties=0, on="evaluation")


def test_too_little_agreement_is_told_with_both_numbers() -> None:
    x = torch.tensor([[0.0, 1.0]] * 90 + [[1.0, 0.0]] * 10)
    with pytest.raises(ParityError) as error:
        check_parity(Doubles(), lambda x: np.array([[0.0, 2.0]] * len(x), np.float32), sending(x), "int8", "model.onnx")
    assert str(error.value) == (
        "model.onnx and the torch model disagree: equal top-1 on 0.9000 of 100 samples, 0.99 is needed; largest relative error 1"
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_never_parity(bad: float) -> None:
    def broken(x: Tensor) -> np.ndarray:
        scores = np.array(x) * 2
        scores[5, 0] = bad
        return scores

    x = torch.tensor([[1.0, 0.0]] * 100)
    with pytest.raises(ParityError) as error:
        check_parity(Doubles(), broken, sending(x), "fp32", "model.onnx")
    assert str(error.value) == (
        "model.onnx and the torch model disagree: equal top-1 on 1.0000 of 100 samples, 0.999 is needed; "
        f"largest relative error {bad}"
    )


class Clock:
    """Time passes only in calls of a file, a second in each."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def doubles(self, x: Any) -> np.ndarray:
        self.now += 1
        return np.asarray(x) * 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_whole_evaluation_is_compared_and_goes_on_with_the_files_answers(clock: Clock) -> None:
    batches, seen = [torch.randn(100, 3) for _ in range(5)], []
    parity = check_parity(Doubles(), clock.doubles, sending(*batches, then=seen.append), "fp32", "a file")
    assert parity == Parity(1.0, 0.0, samples=500, ties=0, on="evaluation")
    assert all(np.array_equal(scores, batch.numpy() * 2) for scores, batch in zip(seen, batches, strict=True))


@pytest.mark.parametrize(("seconds", "batches"), [(5.0, 5), (3.0, 3), (1.0, 3)])
def test_after_some_seconds_256_inputs_are_enough(
    seconds: float, batches: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", seconds)
    seen: list[np.ndarray] = []
    task = sending(*[torch.randn(100, 3) for _ in range(9)], then=seen.append)
    assert check_parity(Doubles(), clock.doubles, task, "fp32", "a file").samples == 100 * batches > LEAST_SAMPLES
    assert len(seen) == batches - 1, "the evaluation ran on after enough inputs"


def test_an_evaluation_that_sends_everything_at_once_is_cut_into_batches(clock: Clock) -> None:
    x = torch.randn(2 * LEAST_SAMPLES + 5, 3)
    sizes, seen = [], []

    def doubles(part: Tensor) -> np.ndarray:
        sizes.append(len(part))
        return clock.doubles(part)

    parity = check_parity(Doubles(), doubles, sending(x, then=seen.append), "fp32", "a file")
    assert (sizes, parity.samples) == ([LEAST_SAMPLES, LEAST_SAMPLES, 5], len(x))
    assert np.array_equal(seen[0], x.numpy() * 2)


def test_a_file_that_differs_only_later_in_the_evaluation_is_found(clock: Clock) -> None:
    x = torch.tensor([[0.0, 1.0]] * 1000)

    def wrong_at_the_end(part: Tensor) -> np.ndarray:
        clock.now += 1
        return np.asarray(part)[:, :: -1 if clock.now > 3 else 1] * 2

    with pytest.raises(ParityError) as error:
        check_parity(Doubles(), wrong_at_the_end, sending(*x.split(250)), "int8", "model.onnx")
    assert str(error.value) == (
        "model.onnx and the torch model disagree: equal top-1 on 0.7500 of 1000 samples, 0.99 is needed; largest relative error 1"
    )


class Weighs(nn.Module):
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * weight


def test_several_inputs_stay_together_and_may_be_arrays() -> None:
    def evaluate(predict: Predict) -> float:
        return float(predict(np.ones((300, 3), np.float32), torch.arange(300.0)[:, None]).mean())

    task = Task((torch.zeros(1, 3), torch.zeros(1, 1)), evaluate=evaluate)
    assert check_parity(Weighs(), lambda x, weight: np.asarray(x * weight), task, "fp32", "a file").samples == 300


def test_an_evaluation_that_fails_fails() -> None:
    def evaluate(predict: Predict) -> float:
        raise FileNotFoundError("labels.txt")

    with pytest.raises(FileNotFoundError, match=r"^labels.txt$"):
        check_parity(Doubles(), lambda x: x, Task((torch.zeros(1, 3),), evaluate=evaluate), "fp32", "a file")


def test_an_evaluation_that_sends_nothing_is_told() -> None:
    with pytest.raises(UserError) as error:
        check_parity(Doubles(), lambda x: x, sending(), "fp32", "a file")
    assert str(error.value) == (
        "Task.evaluate returned without a call of predict; it must send its inputs through predict(*inputs)"
    )


class Takes(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].flatten(1).float()


def noisy(*example: Tensor) -> Iterator[tuple[Tensor, ...]]:
    batches: list[tuple[Tensor, ...]] = []

    def noting(*inputs: Tensor) -> np.ndarray:
        batches.append(inputs)
        return Takes()(*inputs).numpy()

    parity = check_parity(Takes(), noting, Task(example), "fp32", "a file")
    assert (parity.on, parity.samples) == ("noisy examples", len(example[0]) + 64)
    assert len(batches) == 1 + 64
    assert all(torch.equal(given, sent) for given, sent in zip(example, batches[0], strict=True))
    return iter(batches[1:])


def test_without_evaluation_the_examples_and_noisy_copies_are_sent() -> None:
    images, ids = torch.randn(2, 3, 8, 8), torch.tensor([[1, 2], [3, 4]])
    first: Tensor | None = None
    for image, tokens in noisy(images, ids):
        assert torch.equal(tokens, ids[:1]), "integers have no noise"
        assert 0.08 < (image - images[:1]).std() < 0.12
        assert first is None or not torch.equal(image, first)
        first = image
    again = [image for image, _ in noisy(images, ids)]
    assert first is not None
    assert torch.equal(again[-1], first), "the noise must be the same in each run"


@pytest.mark.parametrize("example", [torch.zeros(1, 3, 8, 8), torch.ones(2, 3), torch.tensor([[7.0]])])
def test_a_constant_example_gets_noise_too(example: Tensor) -> None:
    copies = [copy for (copy,) in noisy(example)]
    assert all(torch.isfinite(copy).all() for copy in copies)
    assert 0.05 < (torch.stack(copies) - example[:1]).std() < 0.2
