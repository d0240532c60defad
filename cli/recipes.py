"""`compress recipes`: what comes with the package, to be run by name, or copied and edited."""

import click


@click.group()
def recipes() -> None:
    """Recipes for common aims, for compress run --recipe NAME."""


@recipes.command("list")
def list_() -> None:
    """All names, with their aim and what they need."""
    from rich.text import Text

    from cli.show import Screen
    from compress.recipes import heading, names

    screen = Screen(quiet=False, as_json=False)
    for name in names():
        screen.console.print(Text(name, style="bold"))
        for word in ("Aim", "Needs"):
            screen.console.print(f"  {word.lower() + ':':<6} {heading(name, word)}", markup=False)


@recipes.command("show")
@click.argument("name")
def show(name: str) -> None:
    """One as it is: compress recipes show tiny > my.yaml makes a file to edit."""
    from compress.recipes import file_of

    click.echo(file_of(name).read_text(encoding="utf8"), nl=False)


@recipes.command("schema")
def schema() -> None:
    """The JSON schema of a recipe, by which editors complete and check: compress recipes schema > recipe.schema.json."""
    from cli.show import print_json
    from compress.recipe_schema import recipe_schema

    print_json(recipe_schema())
