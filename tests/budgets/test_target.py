"""How a budget is written, and what a wrong one is told."""

import pytest

from compress.budgets import Budget, parse
from compress.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("macs=0.5", Budget("macs", 0.5, True)),
        (" macs = 0.5 ", Budget("macs", 0.5, True)),
        ("params=1e-3", Budget("params", 0.001, True)),
        ("size=.25", Budget("size", 0.25, True)),
        ("latency=0.999", Budget("latency", 0.999, True)),
        ("macs=3000", Budget("macs", 3000, False)),
        ("macs=2e6", Budget("macs", 2e6, False)),
        ("macs=3k", Budget("macs", 3e3, False)),
        ("macs=3M", Budget("macs", 3e6, False)),
        ("macs=1.5g", Budget("macs", 1.5e9, False)),
        ("macs=0.5G", Budget("macs", 5e8, False)),  # with a unit it is no fraction
        ("params=1.2M", Budget("params", 1.2e6, False)),
        ("size=900B", Budget("size", 900, False)),
        ("size=5 MB", Budget("size", 5e6, False)),
        ("size=5kb", Budget("size", 5e3, False)),
        ("size=0.1GB", Budget("size", 1e8, False)),
        ("latency=3ms", Budget("latency", 3, False)),
        ("latency=500us", Budget("latency", 0.5, False)),
        ("latency=0.2s", Budget("latency", 200, False)),
    ],
)
def test_a_budget_as_text(text: str, expected: Budget) -> None:
    budget = parse(text)
    assert (budget.kind, budget.fraction) == (expected.kind, expected.fraction)
    assert budget.value == pytest.approx(expected.value, rel=1e-12)


NUMBERS = "target must be a fraction of the baseline in (0, 1), such as "
MACS = f"{NUMBERS}macs=0.5, or macs=3000 or macs=3k or macs=3m; got "
SIZE = f"{NUMBERS}size=0.5, or size=3b or size=3kb or size=3mb; got "
LATENCY = f"{NUMBERS}latency=0.5, or latency=3us or latency=3ms or latency=3s; got "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "target must be macs, params, size or latency, got ''. Known: macs, params, size, latency."),
        ("flops=0.5", "target must be macs, params, size or latency, got 'flops=0.5'. Known: macs, params, size, latency."),
        ("latncy=3ms", "target must be macs, params, size or latency, got 'latncy=3ms'. Did you mean 'latency'?"),
        ("0.5", "target must be macs, params, size or latency, got '0.5'. Known: macs, params, size, latency."),
        *(
            (f"macs={value}", f"{MACS}'macs={value}'")
            for value in ("", "0", "-3", "1", "2", "999", "nan", "inf", ".", "1.2.3", "5T", "3ms", "0M")
        ),
        *((f"size={value}", f"{SIZE}'size={value}'") for value in ("5", "5000", "5M", "5ms", "0MB")),
        *((f"latency={value}", f"{LATENCY}'latency={value}'") for value in ("3", "3min", "3000", "fast", "-1ms")),
    ],
)
def test_what_a_wrong_budget_is_told(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text)
    assert str(error.value) == message


def test_the_message_names_what_was_asked_for() -> None:
    with pytest.raises(UserError) as error:
        parse("params=2", "prune_channels: target")
    assert str(error.value) == (
        "prune_channels: target must be a fraction of the baseline in (0, 1), such as params=0.5, or params=3000 or params=3k "
        "or params=3m; got 'params=2'"
    )


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("macs", 49e6, "49 MMACs"),
        ("macs", 123_456, "0.1235 MMACs"),
        ("macs", 1728, "1728 MACs"),
        ("params", 11.17e6, "11.17 M parameters"),
        ("params", 85, "85 parameters"),
        ("size", 44.7e6, "44.7 MB"),
        ("size", 2048, "2048 bytes"),
        ("latency", 2.34567, "2.346 ms"),
        ("latency", 0.0125, "0.0125 ms"),
    ],
)
def test_a_cost_as_text(kind: str, value: float, text: str) -> None:
    assert Budget(kind, 0.5, True).show(value) == text


def test_a_fraction_is_of_the_baseline_and_a_number_is_not() -> None:
    assert parse("size=0.25").limit(8000) == 2000
    assert parse("size=3kb").limit(8000) == 3000
