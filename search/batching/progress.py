"""Tells who waits for a search how far it is, where they asked for that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Told = Callable[[int, int], None]
"""Called with how many candidates are read, and how many there are."""

_told: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def telling(told: Told) -> Iterator[None]:
    """For the time of the block, searches of this thread call `told`."""
    before = _told.set(told)
    try:
        yield
    finally:
        _told.reset(before)


def teller() -> Told:
    """What a search of this thread shall call."""
    return _told.get() or (lambda done, of: None)
