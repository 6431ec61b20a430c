"""The audit log: who asked for, was shown and changed what, one line of JSON for each.

    {"time": "2026-05-04T10:11:12.131Z", "action": "query", "who": "anna", "by": "password", "address": "192.0.2.7",
     "text": "a woman in a red coat", "where": "", "hits": 10}

Lines are only ever added. At midnight UTC the file is renamed NAME-2026-05-04.jsonl, and those of long ago are removed.
"""

import json
import os
import re
import stat
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from search.access.callers import Caller
from search.access.private_files import OTHERS
from utils.errors import Unavailable, UserError

LONGEST_TEXT = 2000  # characters of a value; a longer one is cut
ADDED = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


class AuditLog:
    """Appends lines to a file that its owner alone can read; each is on the disk before anybody is answered."""

    def __init__(self, path: Path, days: int, now: Callable[[], datetime] = utc_now):
        """days: how long the logs of former days are kept. Raises UserError when the file cannot be written."""
        self.path, self.days, self.now = path, days, now
        self.lock, self.day = threading.Lock(), ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.lock:
                self.rotate()
                os.close(self.open())
        except OSError as error:
            raise UserError(f"--audit_log {path} cannot be written: {error.strerror or error}") from None

    def write(self, action: str, caller: Caller | None, **details: Any) -> None:
        """Add a line. Raises Unavailable when it cannot be written: what it is about must not be done then."""
        who = {"who": caller.name, "by": caller.by, "address": caller.address} if caller else {"who": None}
        moment = self.now()
        entry = {
            "time": as_text(moment),
            "action": action,
            **who,
            **{name: shortened(v) for name, v in details.items()},
        }
        line = json.dumps(entry).encode("ascii")  # line breaks of any script are escapes: no value can begin a line
        try:
            with self.lock:
                self.rotate()
                self.append(line + b"\n")
        except (OSError, UserError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Unavailable(f"this is not answered, as the audit log cannot be written: {reason}") from None

    def append(self, line: bytes) -> None:
        """Write a line and wait until it is on the disk. Raises OSError."""
        descriptor = self.open()
        try:
            if ends_within_a_line(descriptor):
                line = b"\n" + line
            written = os.write(descriptor, line)
            if written < len(line):
                raise OSError(f"the disk took {written} of {len(line)} bytes")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def open(self) -> int:
        """The file, to append to. Raises OSError, and UserError when it is not a file that its owner alone can use."""
        descriptor = os.open(self.path, ADDED, 0o600)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and not status.st_mode & OTHERS:
            return descriptor
        os.close(descriptor)
        advice = "can be used by others: chmod 600 it" if stat.S_ISREG(status.st_mode) else "is not a file"
        raise UserError(f"--audit_log {self.path} {advice}")

    # ---- days --------------------------------------------------------------------------

    def rotate(self) -> None:
        """On a new day, give the file the name of its day, and remove those that are kept no longer."""
        today = self.now().strftime("%Y-%m-%d")
        if self.day == today:
            return
        began = self.first_day()
        if began and began < today:
            os.rename(self.path, self.free_name(began))
        self.day = today
        oldest = (self.now() - timedelta(days=self.days)).strftime("%Y-%m-%d")
        for path, day in self.former():
            if day < oldest:
                path.unlink(missing_ok=True)

    def first_day(self) -> str:
        """The day of the first line of the file, or of its last change where that line says none; empty without lines.

        Not what this process remembers: another server may write to the file too.
        """
        if not self.path.is_file() or not self.path.stat().st_size:
            return ""
        with open(self.path, "rb") as file:
            said = re.match(rb'{"time": "(\d{4}-\d\d-\d\d)T', file.read(100))
        changed = datetime.fromtimestamp(self.path.stat().st_mtime, timezone.utc)
        return said[1].decode() if said else changed.strftime("%Y-%m-%d")

    def free_name(self, day: str) -> Path:
        """Where the log of a day goes; a second one of the same day replaces none."""
        number = 1
        while True:
            more = f".{number}" if number > 1 else ""
            path = self.path.with_name(f"{self.path.stem}-{day}{more}{self.path.suffix}")
            if not os.path.lexists(path):
                return path
            number += 1

    def former(self) -> list[tuple[Path, str]]:
        """The logs of former days, each with its day."""
        name = re.compile(rf"{re.escape(self.path.stem)}-(\d{{4}}-\d\d-\d\d)(\.\d+)?{re.escape(self.path.suffix)}")
        found = ((path, name.fullmatch(path.name)) for path in self.path.parent.iterdir())
        return [(path, match[1]) for path, match in found if match]


def ends_within_a_line(descriptor: int) -> bool:
    """Whether a file ends in a part of a line, which this or another process could not write to its end."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def as_text(moment: datetime) -> str:
    """A moment as ISO 8601 writes it, in UTC and milliseconds."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shortened(value: Any) -> Any:
    """A value of a line: a text of any length is cut, so that nobody fills the disk with one."""
    if not isinstance(value, str) or len(value) <= LONGEST_TEXT:
        return value
    return f"{value[:LONGEST_TEXT]}... ({len(value)} characters)"
