"""Layers go back to float when a profile proposes them and the whole file gains; times are written down here, not measured."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import slow_layers
from compress.gauge import Gauge
from compress.quant.ptq import prepare
from compress.quant.scheme import Scheme
from compress.slow_layers import Times, slower_in_integers
from compress.slow_layers import slow_layers as find

LAYERS = ("a", "b", "c")


class Scripted(Gauge):
    """A gauge whose files are names and whose latencies stand in a table."""

    mixed = 0.0

    def write(self, model: Any, name: str) -> Path:
        return Path(name)

    def latencies_ms(self, first: Path, second: Path) -> tuple[float, float]:
        table = {"float": 10.0, "integers": 6.0, "mixed": self.mixed}
        return table[first.name], table[second.name]


def gauge(mixed: float) -> Scripted:
    made = Scripted(Path(), (torch.zeros(1, 3),), None, None)  # type: ignore[arg-type]
    object.__setattr__(made, "mixed", mixed)
    return made


def quantize(excluded: tuple[str, ...]) -> Any:
    return prepare(Three(), (torch.randn(2, 3),), Scheme(excluded))[0]


class Three(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(3, 3) for _ in LAYERS)

    def forward(self, x: Any) -> Any:
        return self.c(self.b(self.a(x)))


SLOW = {"b": (0.1, 0.3)}


@pytest.mark.parametrize(
    ("slow", "mixed", "times"),
    [
        ({}, 1.0, Times(10.0, 6.0)),
        (SLOW, 5.0, Times(10.0, 5.0, SLOW)),
        (SLOW, 5.9, Times(10.0, 6.0)),  # less than 3 % is within the noise
        (SLOW, 7.0, Times(10.0, 6.0)),  # the profile was wrong
        (dict.fromkeys(LAYERS, (0.1, 0.3)), 1.0, Times(10.0, 6.0)),  # nothing would be left
    ],
)
def test_the_profile_proposes_and_the_file_decides(
    slow: dict[str, tuple[float, float]], mixed: float, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_layers, "slower_in_integers", lambda *_: slow)
    assert find((Path("float"), Path("integers")), quantize(()), quantize, gauge(mixed)) == times


@pytest.mark.parametrize(
    ("times", "notes"),
    [
        (Times(2.0, 1.0), []),
        (Times(2.0, 2.05), []),  # within the noise
        (Times(0.01, 0.02), []),
        (Times(2.0, 2.4), ["SLOWER in integers here: 2.40 ms, in float 2.00 ms"]),
        (
            Times(2.0, 1.0, {"b": (0.1, 0.345)}),
            ["in float, since they are slower in integers here: b (0.34 ms, in float 0.10)"],
        ),
        (
            Times(2.0, 1.0, dict.fromkeys("abcde", (0.1, 0.2))),
            [
                "in float, since they are slower in integers here: a (0.20 ms, in float 0.10), b (0.20 ms, in float 0.10), "
                "c (0.20 ms, in float 0.10) and 2 more"
            ],
        ),
    ],
)
def test_what_a_person_should_know(times: Times, notes: list[str]) -> None:
    assert times.notes() == notes


def test_slower_is_what_takes_longer_in_the_second_file(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"float": {"a": 1.0, "b": 1.0, "c": 1.0}, "integers": {"a": 0.5, "b": 1.1, "c": 1.01, "d": 9.0}}
    monkeypatch.setattr(slow_layers, "layer_times", lambda path, *_: tables[path.name])
    found = slower_in_integers(Path("float"), Path("integers"), (*LAYERS, "d"), gauge(0.0))
    assert found == {"b": (1.0, 1.1)}  # c loses next to nothing, and of d there is no float time to compare with
