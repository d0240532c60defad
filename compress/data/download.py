"""Files from the web: whole, checked, and with progress."""

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from compress.errors import UserError
from compress.progress import report

CHUNK = 1 << 18
TIMEOUT_SECONDS = 20


def fetch(url: str, path: Path, sha256: str, instead: str) -> Path:
    """`path`, downloaded from `url` unless it is there; it never holds half a file.

    Args:
        sha256: of the content, in hexadecimal; or the beginning of it.
        instead: what to do where this fails, for the message.

    Raises:
        UserError: no network, another content, or a folder that cannot be written.
    """
    if path.is_file():
        return path
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _download(url, temporary, f"download {path.name}")
        if not found.startswith(sha256):
            raise UserError(f"{url} gave other data than expected (SHA-256 {found}, not {sha256}); {instead}")
        os.replace(temporary, path)
    except urllib.error.URLError as error:
        raise UserError(f"{url} could not be downloaded ({getattr(error, 'reason', error)}); {instead}") from None
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise UserError(f"{url} could not be downloaded ({error}); {instead}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def _download(url: str, path: Path, what: str) -> str:
    """Write what `url` gives to `path`, and say so as `what`; gives its SHA-256."""
    digest, done = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            report(what, done // 10**6, total // 10**6 or None, "MB")
    return digest.hexdigest()
