"""`compress doctor`: what is here, what works, and the line that installs what does not.

Nothing of `compress` is imported before torch is known to be importable: the command is for machines where it is not.
"""

import importlib
import platform
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

import click

DISTRIBUTION = "compress-toolkit"
# Extras that only people who work on this package need.
OF_DEVELOPERS = ("dev", "docs")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w.-]+)")
MODULES = {"pyyaml": "yaml", "pillow": "PIL", "onnxruntime-gpu": "onnxruntime"}  # where they are not called like the package


@dataclass(frozen=True)
class Need:
    """A package that this one asks for.

    Attributes:
        least: the oldest version that will do; None where any will.
        required: whether nothing works without it.
        install: what to write behind `pip install`.
    """

    name: str
    least: str | None
    required: bool
    install: str


def doctor() -> bool:
    """Print what was found; whether everything that is required works."""
    click.echo(f"{DISTRIBUTION} {version(DISTRIBUTION) or 'of unknown version'}, Python {platform.python_version()}")
    try:
        needs = read_needs(metadata.requires(DISTRIBUTION) or [])
    except metadata.PackageNotFoundError:
        click.echo(f"{DISTRIBUTION} is not installed here, so what it needs is not known; in its checkout: pip install -e .")
        return False
    broken = []
    for title, required in (("required", True), ("optional", False)):
        click.echo(f"\n{title}")
        for need in needs:
            if need.required == required:
                name, found, problem = examine(need)
                click.echo(f"  {name:14} {found or 'missing':14} {problem or ''}".rstrip())
                broken += [name] if problem and required else []
    click.echo()
    own = None if broken else _failure("compress")
    if own is not None:
        click.echo(f"compress {own}")
        broken = ["compress"]
    for what, value in () if broken else machine():
        click.echo(f"{what}: {value}")
    click.echo(f"does not work: {', '.join(broken)}" if broken else "everything that is required works")
    return not broken


def read_needs(requirements: Sequence[str]) -> list[Need]:
    """The needs in lines such as `pandas>=2.2; extra == 'compare'`, each package once; those without an extra are required."""
    needs: dict[str, Need] = {}
    extras = [found[1] if (found := _EXTRA.search(line)) else None for line in requirements]
    sizes = Counter(extras)
    # Of a package in several extras the smallest one counts: the least that has to be installed.
    for extra, line in sorted(zip(extras, requirements, strict=True), key=lambda pair: sizes[pair[0]] if pair[0] else 0):
        wanted = line.partition(";")[0].strip()
        name, _, least = (part.strip() for part in wanted.lower().partition(">="))
        name = name.partition("[")[0]
        if extra not in OF_DEVELOPERS:
            install = f"'{wanted}'" if extra is None else f"'{DISTRIBUTION}[{extra}]'"
            needs.setdefault(name, Need(name, least or None, extra is None, install))
    return list(needs.values())


def examine(need: Need) -> tuple[str, str | None, str | None]:
    """The package's name, its version if it is here, and, unless it works, what is wrong and the line that mends it."""
    name, found = need.name, version(need.name)
    if name == "onnxruntime" and found is None:  # the build for GPUs has another name, and does as well
        name, found = "onnxruntime-gpu", version("onnxruntime-gpu")
    if found is None:
        return need.name, None, f"pip install {need.install}"
    if need.least is not None and _numbers(found) < _numbers(need.least):
        return name, found, f"older than {need.least}; pip install --upgrade {need.install}"
    module = MODULES.get(name, name.replace("-", "_"))
    failure = _failure(module)
    if failure is None:
        return name, found, None
    if not need.required and _failure("compress") is None:  # which knows more of the common ways to be broken
        from compress.errors import UserError
        from compress.sources.libraries import import_library

        try:
            import_library(module, need.install)
        except UserError as error:
            return name, found, str(error)
    return name, found, f"{failure}; pip install --force-reinstall {need.install}"


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text.partition("+")[0])]


def _failure(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a package that does not fit the others can raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        return f"does not import: {type(error).__name__}: {reason}"
    return None


def machine() -> Iterator[tuple[str, str]]:
    """What decides how fast things are here, in lines of two parts; needs what is required."""
    import onnxruntime
    import torch

    from compress.measure.environment import describe_environment, saturates

    here = describe_environment(threads=1)
    vectors = " ".join(here["isa_flags"]) or "unknown instruction sets"
    yield "processor", f"{here['cpu']}, {here['cores']} core{'s' if here['cores'] != 1 else ''}; {vectors}"
    yield "int8", "weights of 7 bits, since the processor has no VNNI" if saturates() else "weights of 8 bits"
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    yield "GPU", here["gpu"] or f"none that torch sees ({build})"
    providers = onnxruntime.get_available_providers()
    lacks_cuda = here["gpu"] is not None and "CUDAExecutionProvider" not in providers
    yield "ONNX Runtime", ", ".join(providers) + ("; for the GPU: pip install onnxruntime-gpu" if lacks_cuda else "")
    if version("openvino") is not None and _failure("openvino") is None:
        import openvino

        yield "OpenVINO", ", ".join(openvino.Core().available_devices)


def version_lines() -> list[str]:
    """What `compress --version` prints: this package, Python, and the packages that figures depend on."""
    names = (DISTRIBUTION, "Python", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "transformers", "numpy")
    found = {name: platform.python_version() if name == "Python" else version(name) for name in names}
    return [f"{name} {number}" for name, number in found.items() if number is not None]


def version(distribution: str) -> str | None:
    """The installed version, without importing anything; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
