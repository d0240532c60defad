"""Libraries that are imported only on use: what to say where they are missing or broken, and how to keep them quiet."""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from compress.errors import UserError, did_you_mean

VISION = "'compress-toolkit[vision]'"


def import_library(name: str, install: str) -> Any:
    """The module `name`, imported now.

    Args:
        install: what to write behind `pip install` to get it.

    Raises:
        UserError: it, or a package that it needs, is not installed, or it fails while it is imported.
    """
    library = name.partition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or library).partition(".")[0]
        if missing == library:
            raise UserError(f"{library} is not installed; install it with: pip install {install}") from error
        if error.__cause__ is None:
            raise UserError(
                f"{library} needs {missing}, which is not installed; install it with: pip install {install}"
            ) from error
        raise UserError(_broken(library, install, error)) from error
    except Exception as error:
        raise UserError(_broken(library, install, error)) from error


def _broken(library: str, install: str, error: BaseException) -> str:
    """What to say of a library that is there and fails: most often a torchvision that was built for another torch."""
    chain = list(causes(error))
    blamed = [link for link in chain if "torchvision::" in str(link)]
    if not blamed:
        why = first_line(chain[-1])
        return f"{library} is installed but cannot be imported ({why}); try: pip install --force-reinstall {install}"
    who = "" if library == "torchvision" else f"{library} cannot be imported: "
    index = "cpu" if torch.version.cuda is None else "cu" + torch.version.cuda.replace(".", "")
    return (
        f"{who}the installed torchvision was not built for torch {torch.__version__} ({first_line(blamed[-1])}); install the one "
        f"that fits: pip install --force-reinstall --no-deps torchvision --index-url https://download.pytorch.org/whl/{index}"
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, then what caused it, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def first_line(error: BaseException) -> str:
    """`Type: text`, cut to the first line that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def near(name: str, known: list[str], listing: str) -> str:
    """The closest of a library's many names, or the call that lists them all."""
    hint = did_you_mean(name, known)
    return hint if hint.startswith(" Did") else f" {listing} lists them."


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the log lines, warnings and progress bars of the libraries that are loaded off both streams."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    # transformers' switch also turns that of huggingface_hub.
    bars = sys.modules.get("transformers.utils.logging")
    shown = bars is not None and bars.is_progress_bar_enabled()
    if bars is not None and shown:
        bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        if bars is not None and shown:
            bars.enable_progress_bar()
