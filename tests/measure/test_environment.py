"""What a figure was measured on."""

import json
import os
import platform
from collections.abc import Iterator

import pytest
import torch

from compress.measure import describe_environment, environment
from compress.measure.environment import available_cores, isa_flags, saturates, versions


@pytest.fixture(autouse=True)
def uncached() -> Iterator[None]:
    def clear() -> None:
        for function in (isa_flags, environment._cpuinfo):
            getattr(function, "cache_clear", lambda: None)()

    clear()
    yield
    clear()


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", ("avx2",), True),
        ("x86_64", ("avx2", "avx512f"), True),
        ("AMD64", ("avx2",), True),
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), False),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("x86_64", ("avx2", "amx_int8"), False),
        ("x86_64", ("avx2", "avx512_bf16"), True),
        ("x86_64", (), False),  # unknown: assume a processor of this decade
        ("aarch64", ("asimddp",), False),
        ("arm64", (), False),
    ],
)
def test_which_processors_saturate(machine: str, flags: tuple[str, ...], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(environment, "isa_flags", lambda: flags)
    assert saturates() is expected


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"flags": "fpu avx2 sse avx512_vnni avx512vl"}, ("avx2", "avx512_vnni")),
        ({"Features": "fp asimd asimddp i8mm"}, ("asimddp", "i8mm")),
        ({}, ()),
    ],
)
def test_only_the_flags_that_matter_are_kept(
    info: dict[str, str], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_cpuinfo", lambda: info)
    assert isa_flags() == expected


def test_the_environment_is_plain_data() -> None:
    found = describe_environment(3)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"date", "python", "system", "versions", "cpu", "isa_flags", "cores", "threads", "gpu"}
    assert found["threads"] == 3
    assert found["versions"]["torch"] == torch.__version__
    assert found["cpu"]


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package-anywhere"))
    assert list(versions()) == ["numpy"]


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert available_cores() == 7
