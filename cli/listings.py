"""`compress zoo` and `compress passes`: the names that can be given, and what is behind them."""

import click


@click.group()
def zoo() -> None:
    """The models that can be named."""


@zoo.command("list")
def zoo_list() -> None:
    """All names, with their data and accuracy."""
    from cli import show
    from compress.sources.zoo_file import entries

    show.zoo_table(entries())


@zoo.command("show")
@click.argument("name")
def zoo_show(name: str) -> None:
    """One entry in full."""
    import yaml

    from compress.errors import UserError, did_you_mean
    from compress.sources.zoo_file import entries

    if name not in entries():
        raise UserError(f"unknown model '{name}'." + did_you_mean(name, list(entries())))
    click.echo(yaml.safe_dump({name: entries()[name]}, sort_keys=False), nl=False)


@click.group()
def passes() -> None:
    """The passes that can be asked for."""


@passes.command("list")
def passes_list() -> None:
    """All names, with what they do."""
    from cli import show
    from compress.passes import find, names

    show.pass_table([find(name) for name in names()])


@passes.command("show")
@click.argument("name")
def passes_show(name: str) -> None:
    """Options, defaults and source of one pass."""
    from cli import show
    from compress.passes import find

    show.pass_details(find(name))
