"""The command line in this process: no second start of torch."""

import logging
import warnings

import pytest

from cli.main import main


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    disabled = logging.root.manager.disable  # the command line silences libraries for its whole process, which here is ours
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    logging.disable(disabled)
    streams = capsys.readouterr()
    return int(stopped.value.code or 0), streams.out, streams.err
