"""The command line, in this process, which spares a second start of torch, or in one of its own."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cli.main import main

ROOT = Path(__file__).parent.parent
# The command line with a timing loop of hundredths of a second: what is printed counts here, not how fast the machine is.
HASTY = """
import sys
from cli.main import main
from compress.measure.latency import time_interleaved
time_interleaved.__kwdefaults__.update(min_runs=3, min_seconds=0.02)
main(sys.argv[1:])
"""


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    disabled = logging.root.manager.disable  # the command line silences libraries for its whole process, which here is ours
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    logging.disable(disabled)
    streams = capsys.readouterr()
    return int(stopped.value.code or 0), streams.out, streams.err


def compress(
    *arguments: str, cwd: Path | None = None, command: tuple[str, ...] = ("-c", HASTY)
) -> subprocess.CompletedProcess[str]:
    """What `compress ARGUMENTS` did, as a person in the folder `cwd` would have started it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole = [sys.executable, *command, *arguments]
    return subprocess.run(whole, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
