"""The folder that something is drawn into, which belongs to one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError
from utils.files import cannot_write
from utils.locks import locked

LOCK = ".lock"


def holds_files(root: Path) -> bool:
    """Whether anything is in a folder but the lock, which is all that a process leaves that is killed at once."""
    return root.is_dir() and any(path.name != LOCK for path in root.iterdir())


@contextmanager
def claimed(root: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if need be.

    Raises UserError when one is drawing there, or the folder cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(cannot_write(root, error)) from None
    with locked(root / LOCK, f"folder {root}", "wait for its end, or name another folder"):
        yield
