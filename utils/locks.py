"""Locks between processes: what one of them writes to is closed to the others."""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import UserError

logger = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # of a file system that has none


@contextmanager
def locked(path: Path, what: str, advice: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` for the time of a `with` block; missing folders are made.

    The lock ends with the process, however that ends, and a forked child does not hold it; the file stays, and says
    which process wrote it. Where the file system has no locks there is a warning in place of a lock.

    Raises UserError "WHAT is in use by process N on MACHINE; ADVICE" while another one holds it, and also when this
    process does already; to `wait` for it is the other way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # a marker file in place of a lock would outlive a killed process, and keep everybody out
    lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except Timeout:
            if not wait:
                raise UserError(f"{what} is in use by {holder(path)}; {advice}") from None
            logger.info("%s is in use by %s: waiting", what, holder(path))
            lock.acquire(timeout=-1)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"{what}: cannot lock {path}: {error.strerror or error}") from None
        logger.warning("%s: no locks on this file system; see to it that no other process writes there", what)
    try:
        with suppress(OSError):  # a full disk holds no name, but a lock
            path.write_text(f"{os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def holder(path: Path) -> str:
    """Which process holds a lock, as its file says."""
    try:
        said = path.read_text(encoding="utf-8").split("\n")[0][:100]
    except (OSError, UnicodeDecodeError):
        said = ""
    return f"process {said}" if said else "another process"
