"""Progress of long loops, and what they have to say at once, without the loop knowing who watches.

Passes and measurements call `track` and `tell`; whoever wants to draw a bar installs a sink with `watch`, and who wants to read
along does so with `listen`. Without them `track` is plain iteration, and nothing is said: the library prints nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")

# A sink is told what runs, how far it is, how far it goes (None: unknown), and a short note such as the current loss.
Sink = Callable[[str, int, int | None, str], None]

_sink: ContextVar[Sink | None] = ContextVar("progress", default=None)
_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


@contextmanager
def watch(sink: Sink) -> Iterator[None]:
    """Send all progress made inside the `with` block to `sink`."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


@contextmanager
def listen(listener: Callable[[str], None]) -> Iterator[None]:
    """Send every line that is told inside the `with` block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(text: str) -> None:
    """Say what a person should know at once; free when nobody listens."""
    listener = _listener.get()
    if listener is not None:
        listener(text)


def report(what: str, done: int, total: int | None = None, note: str = "") -> None:
    """Say how far `what` is; free when nobody watches."""
    sink = _sink.get()
    if sink is not None:
        sink(what, done, total, note)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items`, reporting each as it is finished; `total` defaults to `len(items)` where that exists."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    for done, item in enumerate(items, start=1):
        yield item
        report(what, done, total)
