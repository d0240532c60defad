"""What README and the pages in docs/ show: links lead somewhere, commands are commands, Python runs, pages from code are of today."""

import inspect
import json
import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

import compress
from cli import flags
from cli.main import cli
from compress import zoo
from compress.passes import BUILT_IN, find

ROOT = Path(__file__).parent.parent
SHOWN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*SHOWN, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"]
FENCE = re.compile(r"^```(\S*) ?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[tuple[str, str]]:
    """(what stands behind the language, text) of each block of a page."""
    return [(extra, text) for found, extra, text in FENCE.findall(path.read_text()) if found == language]


def commands(path: Path) -> list[str]:
    lines = [line for _, text in blocks(path, "") for line in text.splitlines()]
    lines = [re.sub(r"^torchrun .* -m cli ", "compress ", line) for line in lines]
    return [line for line in lines if line.startswith("compress ")]


def anchors(path: Path) -> set[str]:
    """As headings get them on the site; GitHub's are the same for plain words."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("path", LINKING, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        other = path.parent / file if file else path
        assert other.is_file(), f"{name(path)} links to {target}"
        assert not anchor or anchor in anchors(other), f"{name(path)} links to {target}, which is no heading there"


@pytest.mark.parametrize("path", LINKING, ids=name)
def test_files_that_are_named_are_there(path: Path) -> None:
    text = re.sub(r"https?://\S+", "", path.read_text())
    for file in re.findall(r"\b(?:benchmarks|cli|compress|docs|tests|notebooks)/[\w/-]+\.\w+", text):
        assert (ROOT / file).is_file(), f"{name(path)} names {file}"


def test_the_map_of_the_package_names_what_is_there() -> None:
    rows = re.findall(r"^\| .* \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    named = re.findall(r"`(\w+(?:/|\.py))`", "".join(rows[1:]))
    assert len(named) > 30 and [each for each in named if not (ROOT / "compress" / each).exists()] == []


@pytest.mark.parametrize("line", [line for path in SHOWN for line in commands(path)])
def test_a_command_parses(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text("conv1: 0.5\n")
    arguments = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), arguments.pop(0))
        assert found is not None, line
        command = found
    given = command.make_context("compress", arguments).params
    if command.name == "run" and given["recipe"] is None:  # also the passes and their options that it names
        own = {"out", "force", "resume", "device", "processes", "ray", "threads", "as_json", "quiet", "debug"}
        recipe = flags.to_recipe(**{key: value for key, value in given.items() if key not in own})
        assert recipe.make_passes(), line


@pytest.mark.parametrize("path", [path for path in SHOWN if blocks(path, "python")], ids=name)
def test_the_python_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = blocks(path, "python")
    files = {match[1]: text for extra, text in found if (match := re.fullmatch(r'title="(.+)"', extra))}
    for file, text in files.items():
        Path(file).write_text(text)
    exec("\n".join(text for extra, text in found if not extra), {})
    for line in commands(path):  # what the commands would start from
        for file, function in re.findall(r"(\S+\.py):(\w+)", line):
            if file in files:
                source = zoo.load(f"{file}:{function}")
                assert source.task is not None
                assert zoo.load_task(source, None).evaluate(lambda *x, model=source.model: model(*x).detach().numpy()) > 0.95


def written(script: str, page: str) -> str:
    """What a script of this repository would write."""
    return runpy.run_path(str(ROOT / script))[page]()


@pytest.mark.parametrize(
    "page, script, function",
    [
        ("passes.md", "docs/write_reference.py", "passes_page"),
        ("command-line.md", "docs/write_reference.py", "commands_page"),
        ("benchmarks.md", "benchmarks/tables.py", "page"),
    ],
)
def test_a_page_is_what_its_command_writes(page: str, script: str, function: str) -> None:
    assert (ROOT / "docs" / page).read_text() == written(script, function), f"write it anew: python {script}"


def test_the_page_of_architectures_is_the_benchmarks() -> None:
    rows = json.loads((ROOT / "benchmarks/results/conformance.json").read_text())["rows"]
    page = runpy.run_path(str(ROOT / "benchmarks/conformance.py"))["markdown"](rows)
    assert (ROOT / "docs/conformance.md").read_text() == page


def test_every_pass_and_option_is_in_the_reference() -> None:
    page = (ROOT / "docs/passes.md").read_text()
    for built_in in BUILT_IN:
        section = page.split(f"\n## {built_in}\n")[1].split("\n## ")[0]
        listed = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", section, re.MULTILINE))
        assert set(listed) == set(inspect.signature(find(built_in)).parameters), built_in
        assert all(listed.values()), f"{built_in}: an option without its meaning: {listed}"


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs/python.md").read_text()
    assert [name for name in compress.__all__ if not re.search(rf"\bcompress\.{name}\b", page)] == []
