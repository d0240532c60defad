"""The machine and the versions that a figure was measured on."""

import os
import platform
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

# What decides the speed of integers on x86, by the names in /proc/cpuinfo; and on Arm.
ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
PACKAGES = ("torch", "torch-pruning", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "onnxscript", "transformers", "numpy")


@cache
def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


@cache
def isa_flags() -> tuple[str, ...]:
    """The instruction sets of `ISA_FLAGS` that this processor has; empty where the system does not tell."""
    info = _cpuinfo()
    found = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(flag for flag in ISA_FLAGS if flag in found)


def saturates() -> bool:
    """Whether uint8 x int8 products are summed in saturating 16 bits here: x86 without VNNI or AMX."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    flags = isa_flags()
    return bool(flags) and not any("vnni" in flag or flag == "amx_int8" for flag in flags)


def has_amx() -> bool:
    """Whether this processor multiplies matrices of 8-bit integers on a unit of its own."""
    return "amx_int8" in isa_flags()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter to a figure."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_environment(threads: int) -> dict[str, Any]:
    """The day, versions, processor, instruction sets, threads and GPU, as plain data for a report."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "cpu": _cpuinfo().get("model name") or platform.processor() or platform.machine(),
        "isa_flags": list(isa_flags()),
        "cores": available_cores(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
