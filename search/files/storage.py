"""Where the plain files of a gallery are: a folder, or storage that several machines share, by an fsspec URL.

gallery, file:///data/gallery      a folder
s3://bucket/gallery, gs://, ...    what a package of fsspec reaches (`s3fs`, `gcsfs`, `adlfs`, `sshfs`, ...), signed
                                   in by that package's own settings and environment
"""

import contextlib
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, unquote, urlsplit

from search.files.lease import Lease
from search.files.names import LOCK
from utils.errors import Unavailable, UserError
from utils.files import as_json, atomic_write, folder_fault, read_json, remove_leftovers, write_json
from utils.locks import locked

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")


@contextlib.contextmanager
def write_errors() -> Iterator[None]:
    """Raise what keeps a file from being written, such as a full disk, as Unavailable: it is no wrong input."""
    try:
        yield
    except UserError as error:
        raise Unavailable(str(error)) from error


class Storage(ABC):
    """Files of a gallery by name, such as records/00000001.npz; each is whole, or not there."""

    name: str

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The files of a folder, sorted by name; none of one that is absent."""

    @abstractmethod
    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file to read. Raises UserError."""

    @abstractmethod
    def write(self, name: str, write: Callable[[BinaryIO], None], new: bool = False) -> None:
        """Write a file anew. Raises UserError; when it is to be `new` and is there already, FileExistsError."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def read_json(self, name: str, what: str) -> Any:
        """The content of a JSON file; `what` names its role. Raises UserError."""

    @abstractmethod
    def write_json(self, name: str, value: Any, indent: int | None = None) -> None:
        """Write a JSON file anew. Raises UserError."""

    @abstractmethod
    def lock(self, what: str, advice: str) -> contextlib.AbstractContextManager[None]:
        """Keep other writers away. Raises UserError while there is one."""

    @abstractmethod
    def require_writable(self, what: str) -> None:
        """Raises UserError where nothing can be written."""

    @abstractmethod
    def tidy(self, folder: str) -> None:
        """Remove what killed processes have left in a folder."""


class LocalStorage(Storage):
    """A folder of this machine, or one that a network disk shows as such."""

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def names(self, folder: str) -> list[str]:
        found = self.path / folder
        return sorted(f"{folder}/{entry.name}" for entry in found.iterdir()) if found.is_dir() else []

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        return open(self.path / name, "rb")

    def write(self, name: str, write: Callable[[BinaryIO], None], new: bool = False) -> None:
        if new and self.exists(name):
            raise FileExistsError(name)
        with write_errors(), atomic_write(self.path / name) as temporary, open(temporary, "wb") as file:
            write(file)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def read_json(self, name: str, what: str) -> Any:
        return read_json(self.path / name, what)

    def write_json(self, name: str, value: Any, indent: int | None = None) -> None:
        with write_errors():
            write_json(self.path / name, value, indent)

    def lock(self, what: str, advice: str) -> contextlib.AbstractContextManager[None]:
        return locked(self.path / LOCK, what, advice)

    def require_writable(self, what: str) -> None:
        _, fault = folder_fault(self.path)
        if fault:
            raise UserError(f"{what} {self.path} cannot be written: {fault}")

    def tidy(self, folder: str) -> None:
        remove_leftovers(self.path / folder)


class SharedStorage(Storage):
    """What fsspec reaches by a URL: object storage, or a server of files."""

    def __init__(self, url: str):
        """Raises UserError when no package is there that reads such URLs, or it cannot be signed in."""
        import fsspec

        self.name = url.rstrip("/")
        with self.fsspec_errors("cannot be opened"):
            self.system, path = fsspec.core.url_to_fs(url)
            self.path = path.rstrip("/")
            self.system.use_listings_cache = False  # others write there
        self.lease: Lease | None = None

    @contextlib.contextmanager
    def fsspec_errors(self, what: str) -> Iterator[None]:
        """Raise what fsspec and its packages raise, which may be of any type, as Unavailable with one line."""
        try:
            yield
        except (UserError, FileExistsError):
            raise
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise Unavailable(f"{self.name} {what}: {said[:300]}") from None

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def exists(self, name: str) -> bool:
        with self.fsspec_errors(f"cannot be read ({name})"):
            return self.type_at(self.at(name)) == "file"

    def type_at(self, path: str) -> str | None:
        """file or directory; None where there is nothing. fsspec's own questions take every failure for nothing."""
        try:
            return str(self.system.info(path)["type"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        with self.fsspec_errors(f"cannot be listed ({folder})"):
            self.system.invalidate_cache()
            try:
                found = self.system.ls(self.at(folder), detail=False)
            except FileNotFoundError:
                return []
            return sorted(f"{folder}/{path.rstrip('/').rsplit('/', 1)[-1]}" for path in found)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with self.fsspec_errors(f"cannot be read ({name})"):
            content = self.system.cat_file(self.at(name))
        yield io.BytesIO(content)

    def write(self, name: str, write: Callable[[BinaryIO], None], new: bool = False) -> None:
        content = io.BytesIO()
        write(content)
        self.put(name, content.getvalue(), new)

    def put(self, name: str, content: bytes, new: bool = False) -> None:
        """Write a file; `new`: raises FileExistsError when it is there, also when another machine writes it now."""
        if self.lease is not None:
            self.lease.require_held()
        self.put_unheld(name, content, new)

    def put_unheld(self, name: str, content: bytes, new: bool = False) -> None:
        """As `put`, also of a process that does not hold the lock."""
        with self.fsspec_errors(f"cannot be written ({name})"):
            self.system.makedirs(self.at(name).rsplit("/", 1)[0], exist_ok=True)
            self.system.pipe_file(self.at(name), content, mode="create" if new else "overwrite")

    def remove(self, name: str) -> None:
        with self.fsspec_errors(f"cannot be written ({name})"), contextlib.suppress(FileNotFoundError):
            self.system.rm_file(self.at(name))

    def read_json(self, name: str, what: str) -> Any:
        with self.open(name) as file:
            try:
                return json.loads(file.read().decode("utf-8"))
            except ValueError:
                raise UserError(f"{what} {self.name}/{name} is not JSON") from None

    def write_json(self, name: str, value: Any, indent: int | None = None) -> None:
        self.put(name, f"{as_json(value, indent)}\n".encode())

    @contextlib.contextmanager
    def lock(self, what: str, advice: str) -> Iterator[None]:
        lease = Lease(self, LOCK, f"{what} is in use by {{}}; {advice}")
        with lease.held():
            self.lease = lease
            try:
                yield
            finally:
                self.lease = None

    def require_writable(self, what: str) -> None:
        """A storage without permission says so when it is written to."""

    def tidy(self, folder: str) -> None:
        """A file is there when all of it is."""


def is_url(name: str) -> bool:
    """Whether a name is a URL such as s3://bucket/photos, not a path."""
    return URL.match(name) is not None


def split_url(name: str, what: str) -> SplitResult:
    """The parts of a URL. Raises UserError when its host or port cannot be read; `what` is the option that named it.

    The URL is not repeated: what stands in place of a port may be a part of a password.
    """
    try:
        parts = urlsplit(name)
        _ = parts.port  # which is read only when it is asked for
    except ValueError:
        raise UserError(
            f"{what}: the host or the port of this URL cannot be read; write such as http://host:19530 (a port is a"
            " number from 0 to 65535, and an address of IPv6 has brackets) or s3://bucket/folder"
        ) from None
    return parts


def open_storage(name: str, what: str) -> Storage:
    """The storage that a path or a URL names. Raises UserError; `what` is the option that named it."""
    if not is_url(name):
        return LocalStorage(Path(name))
    parts = split_url(name, what)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise UserError(f"{what} {name}: write file:///folder, with three slashes")
        return LocalStorage(Path(unquote(parts.path)))
    if parts.username is not None or parts.password is not None:
        raise UserError(f"{what} {name.split('@')[-1]}: a URL with a login stands in logs; use the environment")
    return SharedStorage(name)
