"""`compress doctor` and `compress --version`, on this machine and on made-up ones; and completion in a shell."""

import os
import platform
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import click
import pytest

from cli.doctor import Need, doctor, examine, machine, read_needs
from cli.main import cli

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def install(folder: Path, name: str, version: str, code: str = "") -> None:
    """A package as pip leaves it behind."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    (folder / f"{module}-{version}.dist-info").mkdir()
    (folder / f"{module}-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )


def command(*arguments: str, before: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, [before, ROOT] if before else [ROOT]))
    given = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-m", "cli", *arguments], capture_output=True, text=True, env=given, check=False)


def test_needs_are_read_as_packages_write_them() -> None:
    lines = [
        "torch>=2.11",
        "PyYAML >= 6",
        "pandas>=2.2; extra == 'compare'",
        'pillow; extra == "vision"',
        "pytest>=8; extra == 'dev'",
        "ray[train]>=2.60; extra == 'ray'",
    ]
    assert read_needs([*lines, "pandas; extra == 'notebook'"]) == [
        Need("torch", "2.11", True, "'torch>=2.11'"),
        Need("pyyaml", "6", True, "'PyYAML >= 6'"),
        Need("pandas", "2.2", False, "'compress-toolkit[compare]'"),
        Need("pillow", None, False, "'compress-toolkit[vision]'"),
        Need("ray", "2.60", False, "'compress-toolkit[ray]'"),
    ]


def test_what_a_package_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "fine-made-up", "1.10")
    install(tmp_path, "broken-made-up", "1.2", "raise RuntimeError('no such operator\\nmore')")
    install(tmp_path, "torch-made-up", "0.2", "raise RuntimeError('operator torchvision::nms does not exist')")
    assert examine(Need("fine-made-up", "1.9", True, "x")) == ("fine-made-up", "1.10", None)
    assert examine(Need("fine-made-up", "1.11", True, "x")) == (
        "fine-made-up",
        "1.10",
        "older than 1.11; pip install --upgrade x",
    )
    assert examine(Need("not-made-up", None, False, "x")) == ("not-made-up", None, "pip install x")
    assert examine(Need("broken-made-up", None, True, "x")) == (
        "broken-made-up",
        "1.2",
        "does not import: RuntimeError: no such operator; pip install --force-reinstall x",
    )
    assert examine(Need("broken-made-up", None, False, "x"))[2] == (
        "broken_made_up is installed but cannot be imported (RuntimeError: no such operator); try: pip install --force-reinstall x"
    )
    problem = examine(Need("torch-made-up", None, False, "x"))[2]
    assert problem is not None and "the installed torchvision was not built for torch" in problem


def test_onnxruntime_may_be_the_one_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.doctor.version", {"onnxruntime-gpu": "1.30"}.get)
    assert examine(Need("onnxruntime", "1.22", True, "x")) == ("onnxruntime-gpu", "1.30", None)


def declared() -> list[str]:
    """What the project asks for, as pip writes it down."""
    extras = [f"{name}; extra == '{extra}'" for extra, names in PROJECT["optional-dependencies"].items() for name in names]
    return [*PROJECT["dependencies"], *extras]


@pytest.mark.parametrize(
    ("name", "extra"), [("tensorboard", "tensorboard"), ("pandas", "compare"), ("matplotlib", "plot"), ("ray", "ray")]
)
def test_what_can_be_added_is_listed_with_its_line(name: str, extra: str) -> None:
    [install] = [need.install for need in read_needs(declared()) if need.name == name]
    assert install == f"'compress-toolkit[{extra}]'"


def test_this_machine_is_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: declared())
    assert doctor()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"compress-toolkit {metadata.version('compress-toolkit')}, Python {platform.python_version()}"
    required = lines[lines.index("required") + 1 : lines.index("optional") - 1]
    assert len(required) == len(PROJECT["dependencies"])
    assert f"  torch          {metadata.version('torch')}" in required
    assert not [line for line in required if "pip" in line]
    machine = dict(line.split(": ", 1) for line in lines if line.startswith(("processor", "int8", "GPU", "ONNX Runtime")))
    assert "CPUExecutionProvider" in machine["ONNX Runtime"] and " core" in machine["processor"]
    assert machine["int8"] in ("weights of 8 bits", "weights of 7 bits, since the processor has no VNNI")
    assert lines[-1] == "everything that is required works"


def test_a_gpu_that_the_runtime_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"cpu": "A CPU", "cores": 2, "isa_flags": ["avx2"], "gpu": None}
    monkeypatch.setattr("compress.measure.environment.describe_environment", lambda threads: here)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert dict(machine())["ONNX Runtime"] == "CPUExecutionProvider"
    assert dict(machine())["processor"] == "A CPU, 2 cores; avx2"
    here["gpu"], here["cores"] = "A GPU", 1
    found = dict(machine())
    assert (found["GPU"], found["processor"]) == ("A GPU", "A CPU, 1 core; avx2")
    assert found["ONNX Runtime"] == "CPUExecutionProvider; for the GPU: pip install onnxruntime-gpu"


def test_this_package_itself_may_fail_or_not_be_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["click>=8"])
    monkeypatch.setitem(sys.modules, "compress", None)
    assert not doctor()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("compress does not import: ModuleNotFoundError: ")
    assert lines[-1] == "does not work: compress"

    def nowhere(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", nowhere)
    monkeypatch.setattr(metadata, "version", nowhere)
    assert not doctor()
    assert capsys.readouterr().out.splitlines() == [
        f"compress-toolkit of unknown version, Python {platform.python_version()}",
        "compress-toolkit is not installed here, so what it needs is not known; in its checkout: pip install -e .",
    ]


def test_a_torch_that_does_not_load_is_named_and_the_command_fails(tmp_path: Path) -> None:
    install(tmp_path, "torch", "2.99", "raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    done = command("doctor", before=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    problem = "does not import: ImportError: libtorch_cpu.so: cannot open shared object file"
    assert f"  torch          2.99           {problem}; pip install --force-reinstall 'torch>=2.11'" in lines
    assert "torch" in lines[-1].removeprefix("does not work: ").split(", ")


def test_versions_that_matter_are_told_without_importing_anything(tmp_path: Path) -> None:
    install(tmp_path, "torch", "2.99", "raise ImportError('not to be imported')")
    done = command("--version", before=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    versions = dict(line.split() for line in done.stdout.splitlines())
    expected = {name: metadata.version(name) for name in ("compress-toolkit", "onnx", "transformers", "numpy")}
    assert {name: versions[name] for name in expected} == expected
    assert (versions["torch"], versions["Python"]) == ("2.99", platform.python_version())
    assert {"onnxruntime", "onnxruntime-gpu"} & set(versions)


@pytest.mark.parametrize(
    ("shell", "sign"), [("bash", "complete -o nosort -F"), ("zsh", "#compdef compress"), ("fish", "complete --no-files")]
)
def test_each_shell_gets_its_completion_as_the_readme_says(shell: str, sign: str) -> None:
    line = next(line for line in (ROOT / "README.md").read_text().splitlines() if f"_COMPRESS_COMPLETE={shell}_source" in line)
    assert f"_COMPRESS_COMPLETE={shell}_source compress" in line
    done = command(_COMPRESS_COMPLETE=f"{shell}_source")
    assert (done.returncode, done.stderr) == (0, "")
    assert sign in done.stdout and "_COMPRESS_COMPLETE" in done.stdout


def completed(words: str) -> list[str]:
    done = command(_COMPRESS_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    return done.stdout.split()


def test_commands_options_and_files_are_completed() -> None:
    assert completed("compress comp") == ["plain,compare"]
    assert completed("compress compare --form") == ["plain,--format"]
    assert completed("compress compare --format l") == ["plain,latex"]
    assert completed("compress compare runs/") == ["file,runs/"]  # the shell's own look at files
    assert completed("compress bench model") == ["file,model"]
    assert completed("compress run resnet18 --recipe my") == ["file,my"]


def test_whatever_names_a_file_is_completed_as_one() -> None:
    groups = [cli, *(command for command in cli.commands.values() if isinstance(command, click.Group))]
    options = [option for group in groups for command in group.commands.values() for option in command.params]
    named = [option for option in options if option.metavar in ("FILE", "DIR", "DATA")]
    assert len(named) >= 15
    assert [option.name for option in named if not isinstance(option.type, click.Path)] == []
