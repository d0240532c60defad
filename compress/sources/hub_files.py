"""Files of a repository on the Hugging Face hub, in its cache on this machine."""

import io
import threading
from collections.abc import Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Any

from compress.errors import UserError
from compress.progress import report
from compress.sources.libraries import causes, first_line, import_library, quiet


def fetch(repository: str, patterns: Sequence[str], instead: str, revision: str | None = None) -> Path:
    """The folder in the hub's cache with the files of `repository` that match `patterns`, downloaded where needed.

    The folder's name is the commit. Without a network what an earlier call fetched is used.

    Args:
        repository: `OWNER/NAME`.
        instead: what to do where the hub cannot be reached, for the message.
        revision: a commit, branch or tag; None takes the newest.

    Raises:
        UserError: no such repository, no access to it, or no network; said at once, without retries.
    """
    hub = import_library("huggingface_hub", "huggingface_hub")
    errors = import_library("huggingface_hub.errors", "huggingface_hub")
    try:
        with quiet():
            folder = hub.snapshot_download(
                repository, revision=revision, allow_patterns=list(patterns), tqdm_class=_bar(f"download {repository}")
            )
    except errors.HFValidationError:
        raise UserError(
            f"'{repository}' is neither a folder here nor a name on the Hugging Face hub, which has the form OWNER/NAME"
        ) from None
    except errors.GatedRepoError:
        raise UserError(
            f"{repository} asks for a licence to be accepted on huggingface.co; accept it there and log in with: hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"there is no folder '{repository}' here, and the Hugging Face hub has no public model of that name"
        ) from None
    except Exception as error:
        reason = first_line(list(causes(error))[-1])
        raise UserError(f"{repository} could not be fetched from the Hugging Face hub ({reason}); {instead}") from error
    return Path(folder)


def _bar(what: str) -> type:
    """A tqdm class that draws nothing and reports to `compress.progress`, in megabytes."""
    base: Any = import_library("tqdm", "tqdm").tqdm
    # Bars are updated from worker threads, which do not see the context variable that holds who watches.
    context, lock, furthest = copy_context(), threading.Lock(), 0

    class Bar(base):  # type: ignore[misc]  # tqdm has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal furthest
            drawn = super().update(n)
            if self.unit == "B":
                with lock:  # one bar counts what arrives, another what is on disk
                    furthest = max(furthest, int(self.n))
                    context.run(report, what, furthest // 10**6, int(self.total or 0) // 10**6 or None, "MB")
            return drawn

    return Bar
