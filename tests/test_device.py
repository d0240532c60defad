"""Where passes train, on machines with and without GPUs."""

import pytest
import torch

from compress import workers
from compress.device import choose_device
from compress.errors import UserError
from compress.workers import Membership


@pytest.mark.parametrize(
    ("name", "gpus", "rank", "found"),
    [("auto", 0, 0, "cpu"), ("cpu", 2, 0, "cpu"), ("auto", 2, 0, "cuda:0"), ("cuda", 2, 1, "cuda:1")],
)
def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, rank: int, found: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(workers, "membership", lambda: Membership(rank + 4, 6, rank, 2))
    assert choose_device(name) == torch.device(found)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(workers, "membership", lambda: Membership(0, 3, 0, 3))
    with pytest.raises(UserError) as error:
        choose_device("auto")
    assert str(error.value) == "3 processes on this machine need as many GPUs, and it has 2; use fewer, or device cpu"
