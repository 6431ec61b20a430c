"""Files with secrets: readable by their owner alone, and read again when they change while a gallery is served."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from utils.errors import Unavailable, UserError
from utils.files import as_json, atomic_write
from utils.locks import locked

OTHERS = 0o077  # what group and others may do with a file
MAX_BYTES = 2**20

T = TypeVar("T")


def read_private(path: Path, what: str) -> bytes:
    """The content of a file. Raises UserError when it cannot be read, or when others than its owner can use it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # nobody waits for a pipe
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{what} {path} is not a file")
            if status.st_mode & OTHERS:
                raise UserError(f"{what} {path} can be used by others: chmod 600 {path}, and choose its secrets anew")
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{what} {path} has more than {MAX_BYTES // 2**20} MiB: it is another file")
    return content


def read_private_json(path: Path, what: str) -> Any:
    """The JSON in a file. Raises UserError as `read_private` does, and when it is not JSON; its content is not told."""
    try:
        return json.loads(read_private(path, what))
    except (ValueError, RecursionError):
        raise UserError(f"{what} {path} is not valid JSON") from None


def write_private_json(path: Path, value: Any) -> None:
    """Write JSON so that its owner alone can read it, at every moment."""
    with atomic_write(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(as_json(value, indent=2) + "\n")


@contextmanager
def changing(path: Path, what: str) -> Iterator[None]:
    """One process at a time reads a file, changes what it holds and writes it: of two at once, none undoes the other.

    A removal that is undone lets somebody in again.
    """
    with locked(path.with_name(f".{path.name}.lock"), f"{what} {path}", "start again when it has ended", wait=True):
        yield


class ReloadingFile(Generic[T]):
    """What a file holds now: it is read again whenever it has changed, so that who is removed is out at once."""

    def __init__(self, path: Path, read: Callable[[Path], T]):
        """Raises UserError when the file cannot be used."""
        self.path, self.read = path, read
        self.state, self.content = self.state_now(), read(path)

    def state_now(self) -> tuple[int, ...] | None:
        """What changes when the file does; None when there is none."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode

    def current(self) -> T:
        """What the file holds. Raises Unavailable while it cannot be used: nobody gets in by what it held before."""
        state = self.state_now()
        if state is None or state != self.state:
            self.state = None
            try:
                self.content = self.read(self.path)
            except UserError as error:
                raise Unavailable(str(error)) from None
            self.state = state
        return self.content
