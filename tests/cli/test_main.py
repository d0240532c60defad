"""The command line as a whole: that help answers at once, and that lists show every name."""

import resource
import subprocess
import sys

import pytest
import yaml
from command_line import ROOT, compress, in_process

from compress.passes import BUILT_IN


def test_help_answers_at_once() -> None:
    """Torch alone takes over a second to import, so this is about imports, not about the machine's speed."""
    compress("--help", command=("-m", "cli"))  # fills the disk's cache
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = compress("--help", command=("-m", "cli"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.8  # of the processor, whatever else runs
    assert done.stdout.startswith("Usage: compress [OPTIONS] COMMAND [ARGS]...")
    imported = subprocess.run(
        [sys.executable, "-c", "import sys, cli.main; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert imported.stdout == "False\n"


def test_lists_show_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    _, zoo, _ = in_process(capsys, "zoo", "list")
    assert [line.split()[0] for line in zoo.splitlines()[1:5]] == ["resnet18", "resnet20", "resnet32", "resnet56"]
    _, shown, _ = in_process(capsys, "zoo", "show", "resnet18")
    assert yaml.safe_load(shown)["resnet18"]["accuracy"] == {"fashion-mnist": 0.93}
    _, passes, _ = in_process(capsys, "passes", "list")
    assert [line.split()[0] for line in passes.splitlines()[1:]] == list(BUILT_IN)
    _, details, _ = in_process(capsys, "passes", "show", "prune_channels")
    assert "  --pass prune_channels:ratios=none\n" in details
    assert "  --pass prune_channels:ratio=0.5" in details.splitlines()
    assert 'Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"' in details
