"""One writer at a time where there are no locks, as in object storage: a file that its writer renews.

A file is created by one process alone, also when two try at once. Its holder writes it anew every few seconds; one
that is not renewed for a while is that of a process that was killed, and the next writer takes it over. No clocks of
two machines are compared. A holder that was out of reach for long writes nothing any more (`require_held`).
"""

import hashlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from utils.errors import Unavailable, UserError

logger = logging.getLogger(__name__)

RENEWED_EVERY = 3.0  # seconds
ENDED_AFTER = 12.0  # seconds without a renewal, while which others look


class LeaseStorage(Protocol):
    """What a lease asks of the storage that it is about."""

    name: str

    def exists(self, name: str) -> bool: ...

    def read_json(self, name: str, what: str) -> Any: ...

    def put_unheld(self, name: str, content: bytes, new: bool = False) -> None:
        """Write a file; `new`: raises FileExistsError when it is there, also when another machine writes it now."""

    def remove(self, name: str) -> None: ...


class Lease:
    """The right to write to a storage."""

    def __init__(self, storage: LeaseStorage, name: str, refusal: str):
        """refusal: what to tell while another process holds it, with {} for which."""
        self.storage, self.name, self.refusal = storage, name, refusal
        self.token, self.renewals = secrets.token_hex(8), 0
        self.renewed, self.lost = 0.0, False
        self.ended = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for the time of a `with` block. Raises UserError while another process does."""
        self.acquire()
        renewing = threading.Thread(target=self.keep, daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self.ended.set()
            renewing.join()
            if not self.lost:
                with suppress(UserError):  # the next one takes it over
                    self.storage.remove(self.name)

    def require_held(self) -> None:
        """Raises Unavailable when another process may write by now."""
        late = self.renewed and time.monotonic() - self.renewed > ENDED_AFTER
        if self.lost or late:
            raise Unavailable(
                f"{self.storage.name} was out of reach for {ENDED_AFTER:.0f} s, and another process may write there by"
                " now; start again: what was acknowledged is kept"
            )

    def acquire(self) -> None:
        """Create the file, or take it over from a process that has ended."""
        if self.create():
            return
        logger.info("%s is held by %s: watching whether that one still runs", self.name, holder(self.read()))
        ended, now = self.watch()
        if ended is not None and now == ended:
            with self.claimed(ended):
                if self.read() == ended:
                    self.storage.remove(self.name)
                    self.require_created()
                    return
        self.require_created()

    def watch(self) -> tuple[Any, Any]:
        """What the file said, and what it says after a while without a change, or once it is removed.

        Raises UserError when it was renewed.
        """
        seen, since = self.read(), time.monotonic()
        while time.monotonic() - since < ENDED_AFTER:
            time.sleep(RENEWED_EVERY / 3)
            now = self.read()
            if now is None:
                return seen, None
            if now != seen:
                raise UserError(self.refusal.format(holder(now)))
        return seen, self.read()

    @contextmanager
    def claimed(self, ended: Any) -> Iterator[None]:
        """Only one process at a time takes over from `ended`: of two, the later would remove the file of the earlier.

        Raises UserError where another does. What one has left that was killed meanwhile is removed, for the next try.
        """
        digest = hashlib.blake2b(json.dumps(ended, sort_keys=True).encode(), digest_size=8).hexdigest()
        claim = f"{self.name}.{digest}"
        try:
            self.storage.put_unheld(claim, b"", new=True)
        except FileExistsError:
            time.sleep(ENDED_AFTER)
            if self.read() == ended:
                self.storage.remove(claim)
            raise UserError(self.refusal.format("another process, which takes it over now")) from None
        try:
            yield
        finally:
            self.storage.remove(claim)

    def require_created(self) -> None:
        if not self.create():
            raise UserError(self.refusal.format(holder(self.read())))

    def create(self) -> bool:
        try:
            self.write(new=True)
        except FileExistsError:
            return False
        return True

    def write(self, new: bool = False) -> None:
        started = time.monotonic()
        content = {"process": os.getpid(), "machine": socket.gethostname(), "token": self.token, "n": self.renewals}
        self.storage.put_unheld(self.name, json.dumps(content).encode(), new)
        self.renewed = started

    def read(self) -> Any:
        """What the file says; None when there is none."""
        if not self.storage.exists(self.name):
            return None
        with suppress(UserError):
            return self.storage.read_json(self.name, "lock")
        return None

    def keep(self) -> None:
        """Renew it until the block ends, or another process has taken it over."""
        while not self.ended.wait(RENEWED_EVERY):
            try:
                there = self.read()
                if there is not None and there.get("token") != self.token:
                    self.lost = True
                    return
                if time.monotonic() - self.renewed > ENDED_AFTER:
                    self.lost = True
                    return
                self.renewals += 1
                self.write()
            except UserError as error:  # out of reach: `require_held` counts the seconds
                logger.warning("%s", error)


def holder(content: Any) -> str:
    """Which process holds it, as its file says."""
    if not isinstance(content, dict):
        return "another process"
    return f"process {content.get('process')} on {content.get('machine')}"
