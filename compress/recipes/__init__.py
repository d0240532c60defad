"""The recipes that come with the package: a YAML file each, beside this one, which a person can run by name, or copy and edit."""

from pathlib import Path

from compress.errors import UserError, did_you_mean

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All names, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def file_of(name: str) -> Path:
    """The file of a recipe.

    Raises:
        UserError: there is none of this name.
    """
    if name not in names():
        raise UserError(f"unknown recipe '{name}'." + did_you_mean(name, names()))
    return FOLDER / f"{name}.yaml"


def resolve(given: str) -> Path:
    """The file that a person means: that of a recipe where `given` is its name, even if a file here has it, too; else the path.

    `./tiny` is always the file.

    Raises:
        UserError: neither a recipe nor a file, and no path by its looks.
    """
    path = Path(given)
    if given in names():
        return file_of(given)
    if not path.exists() and given == path.stem:
        raise UserError(f"'{given}' is neither a recipe nor a file." + did_you_mean(given, names()))
    return path


def heading(name: str, word: str) -> str:
    """What a recipe says about itself: the rest of the comment line that begins with `word`, such as `Aim`.

    Raises:
        UserError: there is no recipe of this name.
    """
    lines = file_of(name).read_text(encoding="utf8").splitlines()
    return next(line for line in lines if line.startswith(f"# {word}: ")).partition(": ")[2]
