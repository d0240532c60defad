"""Layers go back to float when a profile proposes them and the whole file gains; times are written down here, not measured."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import slow_layers
from compress.gauge import Gauge
from compress.slow_layers import Times, slower_in_integers, without_slow_layers

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
    return excluded


SLOW = {"b": (0.1, 0.3)}


@pytest.mark.parametrize(
    ("slow", "mixed", "excluded", "times"),
    [
        ({}, 1.0, (), Times(10.0, 6.0)),
        (SLOW, 5.0, ("b",), Times(10.0, 5.0, SLOW)),
        (SLOW, 5.9, (), Times(10.0, 6.0)),  # less than 3 % is within the noise
        (SLOW, 7.0, (), Times(10.0, 6.0)),  # the profile was wrong
        (dict.fromkeys(LAYERS, (0.1, 0.3)), 1.0, (), Times(10.0, 6.0)),  # nothing would be left
    ],
)
def test_the_profile_proposes_and_the_file_decides(
    slow: dict[str, tuple[float, float]], mixed: float, excluded: tuple[str, ...], times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_layers, "slower_in_integers", lambda *_: slow)
    found, measured = without_slow_layers(nn.Identity(), quantize, LAYERS, gauge(mixed))
    assert found == excluded
    assert measured == times


def test_slower_is_what_takes_longer_in_the_second_file(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"float": {"a": 1.0, "b": 1.0, "c": 1.0}, "integers": {"a": 0.5, "b": 1.1, "d": 9.0}}
    monkeypatch.setattr(slow_layers, "layer_times", lambda path, *_: tables[path.name])
    found = slower_in_integers(Path("float"), Path("integers"), (*LAYERS, "d"), gauge(0.0))
    assert found == {"b": (1.0, 1.1)}  # of d there is no float time to compare with
