"""What the README shows: its Python runs, its commands are commands, its table is one that the benchmark wrote."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from cli.main import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_blocks_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks("python")), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [line for line in "\n".join(blocks("")).splitlines() if line.startswith("compress ")])
def test_a_command_parses(line: str) -> None:
    arguments = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), arguments.pop(0))
        assert found is not None, line
        command = found
    command.make_context("compress", arguments)


def test_the_table_is_the_benchmarks() -> None:
    run = json.loads((ROOT / "benchmarks/results/main_job.json").read_text())["runs"][0]
    table = {line.split()[0]: line.split()[1:] for line in README.splitlines() if re.match(r"[a-z_0-9]+ +\d+\.\d\d +", line)}
    assert {name: f"{100 * value:.2f}" for name, value in run["accuracy"].items()} == {
        name: row[0] for name, row in table.items()
    }
