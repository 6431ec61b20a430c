"""Who asks while a request is answered: a person who signed in, or a program with a token."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

SEARCH, UPLOAD, FORGET = "search", "upload", "forget"
ROLES = (SEARCH, UPLOAD, FORGET)
IN_SCOPE = "search.caller"  # where the request of a web server says who asks


@dataclass(frozen=True)
class Caller:
    """The user or program behind a request.

    name: of a user or of a token. by: how it was proved (password, token). address: where the request is from.
    """

    name: str
    roles: frozenset[str]
    by: str
    address: str


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """Who asks, in the thread or task that answers; None where nobody has to sign in."""
    return _current.get()


@contextmanager
def acting(caller: Caller | None) -> Iterator[None]:
    """For the time of the block, `caller` is who asks."""
    before = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(before)


def caller_in(scope: MutableMapping[str, Any]) -> Caller | None:
    """Who asks, as the gate has noted it in a request."""
    found = scope.get(IN_SCOPE)
    return found if isinstance(found, Caller) else None
