"""Who has signed in: sessions that end when they are idle, when they are old, and when their user signs out."""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from search.access.passwords import User

IDLE, LONGEST = 30 * 60, 12 * 3600  # seconds after which a session ends: without a request, and in any case
MAX_SESSIONS, MAX_PER_USER = 1000, 20  # sessions at a time; a new one ends the oldest


@dataclass
class Session:
    """The session of a user who signed in.

    user: as in the file when the session began. started, used: seconds of the clock.
    """

    name: str
    user: User
    started: float
    used: float


class Sessions:
    """Sessions of this process by hashes of their ids: what leaks from memory opens none. All end with the process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock, self.held = clock, OrderedDict[str, Session]()

    def begin(self, name: str, user: User) -> str:
        """A new session; returns its id, 256 random bits."""
        self.sweep()
        own = [key for key, session in self.held.items() if session.name == name]
        for key in own[: max(0, len(own) - MAX_PER_USER + 1)]:
            del self.held[key]
        while len(self.held) >= MAX_SESSIONS:
            self.held.popitem(last=False)
        session_id, now = secrets.token_urlsafe(32), self.clock()
        self.held[key_of(session_id)] = Session(name, user, now, now)
        return session_id

    def find(self, session_id: str, used: bool = True) -> Session | None:
        """The session of an id, or None when it has ended or never was. used: this counts as a request of it."""
        key = key_of(session_id)
        session = self.held.get(key)
        if session is None:
            return None
        if self.is_over(session):
            del self.held[key]
            return None
        if used:
            session.used = self.clock()
        return session

    def end(self, session_id: str) -> None:
        self.held.pop(key_of(session_id), None)

    def is_over(self, session: Session) -> bool:
        now = self.clock()
        return now - session.used >= IDLE or now - session.started >= LONGEST

    def sweep(self) -> None:
        """Drop sessions that have ended."""
        for key in [key for key, session in self.held.items() if self.is_over(session)]:
            del self.held[key]


def key_of(session_id: str) -> str:
    return hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()
