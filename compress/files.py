"""Writing files so that nobody ever sees half of one."""

import contextlib
import os
from pathlib import Path

from compress.errors import UserError

CACHE = Path("~/.cache/compress-toolkit")  # what was downloaded or computed once; may be deleted at any time


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, then move: a killed process leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
