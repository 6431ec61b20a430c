"""Reports the progress of searches to those who wait for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OnProgress = Callable[[int, int], None]
"""Called with how many candidates are read, and how many there are."""

_on_progress: ContextVar[OnProgress | None] = ContextVar("on_progress", default=None)


@contextmanager
def report_progress(on_progress: OnProgress) -> Iterator[None]:
    """Within, searches of this thread call `on_progress`."""
    token = _on_progress.set(on_progress)
    try:
        yield
    finally:
        _on_progress.reset(token)


def progress_callback() -> OnProgress:
    """What searches of this thread call; nothing is done where nobody asked."""
    return _on_progress.get() or (lambda done, of: None)
