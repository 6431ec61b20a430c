"""Files that are either complete or not there."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError, nearest


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place when the block succeeds.

    The temporary file is flushed to disk before the move and removed on any error, so a
    reader sees the old file or the new one, never a part. Missing folders are made.

    Raises UserError when the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def require_folder(folder: str | os.PathLike, what: str) -> None:
    """Check that `folder` is one, or can be made, and can be written; nothing is made yet.

    Raises UserError, so that hours of work do not end in results that cannot be kept.
    """
    place = os.path.abspath(folder)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise UserError(f"{what} {folder}: {place} is not a folder; name another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{what} {folder} cannot be written: no permission in {place}")


def similar_file(path: Path) -> str:
    """A hint at a file with a similar name beside `path`."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return nearest(path.name, names)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = None) -> None:
    """Write `value` as UTF-8 JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


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
