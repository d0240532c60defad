"""A teacher's answers on disk: asked once, never mistaken, never trusted when damaged."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.distillation.cache import TRIAL, Cache, fingerprint, sample_keys


class Teacher(nn.Module):
    """Adds 1, and counts the samples that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return x + self.weight.detach()


def answer(cache: Cache, teacher: Teacher, x: Tensor) -> Tensor:
    return cache.look_up((x,), lambda inputs: teacher(*inputs))


def test_each_sample_is_asked_once_whatever_its_batch(tmp_path: Path) -> None:
    teacher, x = Teacher(), torch.randn(10, 3)
    cache = Cache(tmp_path, teacher, samples=10)
    for _ in range(3):
        chosen = x[torch.randperm(10)]
        assert torch.equal(answer(cache, teacher, chosen[:4]), chosen[:4] + 1)
        assert torch.equal(answer(cache, teacher, chosen[4:]), chosen[4:] + 1)
    assert teacher.asked == 10


def test_a_sample_that_is_twice_in_a_batch(tmp_path: Path) -> None:
    teacher, x = Teacher(), torch.randn(2, 3)
    cache = Cache(tmp_path, teacher, samples=2)
    twice = torch.cat([x, x])
    assert torch.equal(answer(cache, teacher, twice), twice + 1)
    assert torch.equal(answer(cache, teacher, twice), twice + 1)


def test_answers_outlive_the_process(tmp_path: Path) -> None:
    x = torch.randn(6, 3)
    first = Cache(tmp_path / "new", Teacher(), samples=6)
    answer(first, Teacher(), x)
    first.save()
    teacher = Teacher()
    assert torch.equal(answer(Cache(tmp_path / "new", teacher, samples=6), teacher, x.flip(0)), x.flip(0) + 1)
    assert teacher.asked == 0


def test_other_weights_have_another_file(tmp_path: Path) -> None:
    x, teacher, other = torch.randn(6, 3), Teacher(), Teacher()
    cache = Cache(tmp_path, teacher, samples=6)
    answer(cache, teacher, x)
    cache.save()
    with torch.no_grad():
        other.weight[1] += 1e-7
    changed = Cache(tmp_path, other, samples=6)
    assert changed.path != cache.path
    answer(changed, other, x)
    assert other.asked == 6


def test_a_damaged_file_is_written_anew(tmp_path: Path) -> None:
    x = torch.randn(6, 3)
    cache = Cache(tmp_path, Teacher(), samples=6)
    answer(cache, Teacher(), x)
    cache.save()
    whole = cache.path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 64
    for damaged in (b"", whole[:-5], bytes(flipped)):
        cache.path.write_bytes(damaged)
        teacher = Teacher()
        again = Cache(tmp_path, teacher, samples=6)
        assert torch.equal(answer(again, teacher, x), x + 1)
        assert teacher.asked == 6
        again.save()
        answer(Cache(tmp_path, teacher, samples=6), teacher, x)
        assert teacher.asked == 6


def test_images_that_are_augmented_anew_are_not_kept(tmp_path: Path) -> None:
    teacher = Teacher()
    cache = Cache(tmp_path, teacher, samples=50)
    for _ in range((50 + TRIAL) // 50 + 2):
        answer(cache, teacher, torch.randn(50, 3))
    assert cache.useless
    cache.save()
    assert not cache.path.exists()


def test_the_first_epoch_is_no_sign_of_augmentation(tmp_path: Path) -> None:
    teacher, x = Teacher(), torch.randn(2 * TRIAL, 3)
    cache = Cache(tmp_path, teacher, samples=2 * TRIAL)
    answer(cache, teacher, x)
    answer(cache, teacher, x)
    assert teacher.asked == 2 * TRIAL


@pytest.mark.parametrize(
    "other",
    [
        (torch.zeros(1, 3), torch.zeros(1, 2)),
        (torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, 3)),
        (torch.zeros(1, 5),),
    ],
)
def test_equal_bytes_of_other_shapes_are_other_samples(other: tuple[Tensor, ...]) -> None:
    assert sample_keys((torch.zeros(1, 2), torch.zeros(1, 3))) != sample_keys(other)


def test_a_fingerprint_is_of_class_names_and_numbers() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.load_state_dict(a.state_dict())
    assert fingerprint(a) == fingerprint(b)
    assert fingerprint(nn.Sequential(a)) != fingerprint(a)
