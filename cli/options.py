"""Options that several commands have."""

from typing import Any

import click

# Checked by nobody here: it says to the shell what to complete.
PATH = click.Path(readable=False)


def pruning_flags(command: Any) -> Any:
    """The flags that say what structural pruning takes, the same in every command that has them."""
    for flag in reversed(
        [
            click.option("--prune", type=float, metavar="RATIO", help="Remove this share of the channels, in (0, 1)."),
            click.option("--prune-target", metavar="COST=VALUE", help="Prune to macs=0.5, params=0.5, size=5MB, latency=3ms."),
            click.option("--prune-plan", type=PATH, metavar="FILE", help="Prune by a YAML file: layer pattern to ratio."),
        ]
    ):
        command = flag(command)
    return command
