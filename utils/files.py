"""Files that are either complete or not there."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError, did_you_mean
from utils.paths import expand_home

TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-([1-9][0-9]{0,9})(-[0-9]+)?\.tmp")  # .NAME.MACHINE-PROCESS-NUMBER.tmp
ABANDONED = 24 * 3600  # seconds without a change after which a temporary file of another machine is a leftover
NO_HARD_LINKS = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
NO_FOLDER = "is not a folder"
NO_FLUSHING = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
ADVICE = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or ask for more",
    errno.EFBIG: "files may not grow so large there (see ulimit -f)",
    errno.EIO: "check the disk",
}

_being_written: set[str] = set()  # names of this process's own temporary files
_numbers = itertools.count(1)  # of these: threads may write one file at a time, of which the last one stays


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, previous: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` when the block succeeds.

    The temporary file is flushed to disk before the move and removed on any error, so that a reader sees the old file
    or the new one, never a part. The file that was at `path` is kept as `previous`, a name in the same folder: at any
    moment, one of the two is whole. Missing folders are made.

    Raises UserError when the file cannot be written; the old one is still there then.
    """
    path, previous = Path(path), None if previous is None else Path(previous)
    if previous is not None and previous.absolute().parent != path.absolute().parent:
        raise ValueError(f"{previous} is not in the folder of {path}")
    temporary, old = temporary_beside(path), temporary_beside(path.with_name(f"{path.name}.old"))
    _being_written.update((temporary.name, old.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        flush(temporary)
        replace(temporary, path, old, previous)
    except OSError as error:
        raise UserError(cannot_write(path, error)) from error
    finally:
        for left in (temporary, old):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
        _being_written.difference_update((temporary.name, old.name))


def replace(temporary: Path, path: Path, old: Path, previous: Path | None) -> None:
    """Move `temporary` to `path`, and what was there to `previous`; undone when the disk fails.

    Only when the new file is known to be on the disk may the old one take the place of a `previous` that was whole.
    """
    if previous is not None and previous.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{previous} is a folder")
    kept = keep(path, old, previous)
    try:
        os.replace(temporary, path)
        flush(path.parent)
    except OSError:
        if kept:
            os.replace(kept, path)
        else:
            path.unlink(missing_ok=True)
        raise
    if kept == old and previous is not None:
        try:
            os.replace(old, previous)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path} is written, but what it replaced cannot be kept as {previous}: {reason}") from None


def keep(path: Path, old: Path, previous: Path | None) -> Path | None:
    """Under which name the file at `path` can be had back once it is replaced; None when there is no such file.

    This is a second name of it, `old`; without hard links it moves to `previous`. Without that too it is `path`
    itself: once replaced, it is gone.
    """
    if not os.path.lexists(path):
        return None
    if link(path, old):
        return old
    if previous is None or not path.is_file():
        return path
    os.replace(path, previous)
    return previous


def link(path: Path, second: Path) -> bool:
    """Give a file a second name; False when there is no file, or no hard links on its disk."""
    try:
        second.unlink(missing_ok=True)
        os.link(path, second, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        return False
    return True


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; some network disks cannot do so for folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in NO_FLUSHING):
            raise
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> str:
    """The message about a file: what went wrong, what to do, and whether there still is an earlier one."""
    kept = f"; the earlier {path.name} there is whole" if path.is_file() else ""
    return f"cannot write {path}: {error.strerror or error}; {ADVICE.get(error.errno or 0, 'name another place')}{kept}"


# ---- temporary files -------------------------------------------------------------------


def temporary_beside(path: Path) -> Path:
    """Under which name this process writes a file until it is whole; another one each time."""
    return path.with_name(f".{path.name}.{machine()}-{os.getpid()}-{next(_numbers)}.tmp")


def machine() -> str:
    """Eight hexadecimal digits for this machine, or for a container on it that numbers its own processes."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{socket.gethostname()} {numbering}".encode()).hexdigest()[:8]


def remove_leftovers(folder: str | os.PathLike) -> list[str]:
    """Remove temporary files of `atomic_write` whose process was killed; returns their names, sorted.

    Those of processes that still run stay, and those of other machines until they have not changed for a day.
    Nothing is done where there is no folder. Raises UserError when the folder cannot be read.
    """
    removed = []
    try:
        leftovers = [entry for entry in os.scandir(os.fspath(folder)) if is_leftover(entry)]
        for entry in leftovers:
            with contextlib.suppress(FileNotFoundError):  # another process of the run was faster
                os.unlink(entry.path)
                removed.append(entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot clear temporary files in {folder}: {error.strerror or error}") from None
    return sorted(removed)


def is_leftover(entry: os.DirEntry) -> bool:
    """Whether a file is one that `atomic_write` began and that no process will finish."""
    match = TEMPORARY.fullmatch(entry.name)
    if not match or not entry.is_file(follow_symlinks=False):
        return False
    if match[1] != machine():
        stat = entry.stat(follow_symlinks=False)
        return time.time() - max(stat.st_mtime, stat.st_ctime) > ABANDONED
    if int(match[2]) == os.getpid():  # a process that had this number before, as the first one of a container has
        return entry.name not in _being_written
    return not is_running(int(match[2]))


def is_running(process: int) -> bool:
    """Whether a process of this number runs here; one that reused the number counts as well.

    One that has ended and whose end nobody has asked for, as in a container without an init process, does not run.
    """
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    try:
        state = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[:1]
    except OSError:
        return True
    return state not in (["Z"], ["X"])


# ---- folders, JSON ---------------------------------------------------------------------


def require_writable_folder(folder: str | os.PathLike, what: str, advice: str = "") -> None:
    """Check that `folder` is a folder or can be made, and can be written; nothing is made yet. advice: what else to do.

    Raises UserError, so that hours of work do not end in results that cannot be kept.
    """
    existing, fault = folder_fault(folder)
    if fault == NO_FOLDER:
        raise UserError(f"{what} {folder}: {existing} {fault}; name another{advice}")
    if fault:
        advice = advice and f"; name another{advice}"
        raise UserError(f"{what} {folder} cannot be written: {fault}{advice}")


def folder_fault(folder: str | os.PathLike) -> tuple[str, str]:
    """What there is of a folder, and why nothing can be written there; an empty text where it can."""
    existing = os.path.abspath(folder)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        return existing, NO_FOLDER
    if not os.access(existing, os.W_OK | os.X_OK):
        return existing, f"no permission in {existing}, or its disk is read-only"
    return existing, ""


def require_writable_file(path: str | os.PathLike, what: str) -> None:
    """Check that a file can be written, in place of one that is there; missing folders above it are made then.

    Raises UserError, so that hours of work do not end in a result that cannot be kept.
    """
    if os.path.isdir(path):
        raise UserError(f"{what} {path} is a folder; name a file, or move it away")
    existing, fault = folder_fault(os.path.dirname(os.path.abspath(path)))
    if fault:
        fault = f"{existing} {fault}" if fault == NO_FOLDER else fault
        raise UserError(f"{what} {path} cannot be written: {fault}; name another place")


def named_path(path: str, what: str) -> Path:
    """A path that a user has written, with its home folder expanded; `what` names its role in error messages.

    Raises UserError when it is empty or names no known home folder.
    """
    if not path.strip():
        raise UserError(f"{what}: the path is empty")
    try:
        return Path(expand_home(path))
    except ValueError as error:
        raise UserError(f"{what} {path}: {error}") from None


def similar_file(path: Path, others: Iterable[str] = ()) -> str:
    """A hint at a file with a similar name beside `path`, or at one of other names that it could have been."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return did_you_mean(path.name, [*names, *others])


def as_json(value: Any, indent: int | None = None, encoding: str = "utf-8") -> str:
    """JSON that a file or terminal of this encoding can take: where it has not all letters, they are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(encoding)  # no bytes of a file's name that are not UTF-8 among them either
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def print_json(value: Any) -> None:
    """Print `value` as JSON, with escapes for letters that the terminal lacks."""
    print(as_json(value, indent=2, encoding=sys.stdout.encoding or "utf-8"))


def write_json(path: str | os.PathLike, value: Any, indent: int | None = None) -> None:
    """Write `value` as UTF-8 JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(as_json(value, indent) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike, what: str) -> Any:
    """Read a UTF-8 JSON file; `what` names its role in error messages.

    Raises UserError when it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is not valid JSON: {error}") from None
