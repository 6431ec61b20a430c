"""Where the images of a gallery are: a folder, or storage that several machines share, by an fsspec URL.

photos, /mnt/photos        a folder of this machine, or one that a network disk shows as such
s3://bucket/photos, ...    what a package of fsspec reaches, signed in by that package's own settings and environment
"""

import contextlib
import os
import posixpath
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dataset.decoding import LARGEST_FILE, Unreadable, Unusable, known_endings, read_content
from dataset.image_folders import FolderOfImages, is_left_out, note_file, walk_images
from search.files.names import INDEX, LOCK, MANIFEST, PAGE, RECORDS
from search.files.storage import SharedStorage, is_url, open_storage, write_errors
from utils.files import atomic_write, named_path
from utils.paths import expand_home
from utils.processes.parallel import available_cores

State = tuple[Any, ...]
"""What changes when a file does."""

AT_ONCE = 32  # files that are asked for together, where each answer takes a while
LOOKED_AT = 5.0  # seconds that an answer about a file of shared storage counts
MAX_KEPT_STATES = 100_000  # files whose answers are kept


class ImageSource(ABC):
    """Image files by their paths below one place, with / between their parts.

    name: of that place, as gallery.json has it. threads: how many read files at once.
    """

    name: str
    threads: int

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is such a place."""

    @abstractmethod
    def walk(self) -> FolderOfImages:
        """All images, but for what galleries keep there. Raises UserError when any part cannot be listed."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The bytes of an image file. Raises Unusable when it is too large, Unreadable when it cannot be read now."""

    @abstractmethod
    def look_at(self, paths: Iterable[str]) -> None:
        """Ask for the states of files that are soon asked for one by one."""

    @abstractmethod
    def state(self, path: str) -> State | None:
        """What changes when a file does; None when there is none."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write an image file. Raises UserError."""

    @abstractmethod
    def named(self, path: str) -> str:
        """The whole name of an image."""

    @abstractmethod
    def paths_of(self, name: str) -> list[str]:
        """Paths that a user may mean by a name: it is given below this place, or whole; "." is all of it."""


class LocalImages(ImageSource):
    """A folder."""

    def __init__(self, path: Path):
        self.path = path.resolve()
        self.name, self.threads = str(self.path), available_cores()

    def exists(self) -> bool:
        return self.path.is_dir()

    def walk(self) -> FolderOfImages:
        return walk_images(self.path, is_own_folder)

    def read(self, path: str) -> bytes:
        return read_content(self.path / path)

    def look_at(self, paths: Iterable[str]) -> None:
        """A disk answers at once."""

    def state(self, path: str) -> State | None:
        try:
            status = (self.path / path).stat()
        except (OSError, ValueError):
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

    def write(self, path: str, content: bytes) -> None:
        with write_errors(), atomic_write(self.path / path) as temporary:
            temporary.write_bytes(content)

    def named(self, path: str) -> str:
        return str(self.path / path)

    def paths_of(self, name: str) -> list[str]:
        """Or it is given from the working directory."""
        given = [self.path / name, Path.cwd() / name]
        with contextlib.suppress(ValueError):  # a user whom nobody knows
            given.append(self.path / expand_home(name))
        whole = [Path(follow(path)) for follow in (os.path.normpath, os.path.realpath) for path in given]
        below = (path.relative_to(self.path).as_posix() for path in whole if path.is_relative_to(self.path))
        return list(dict.fromkeys(below))


class SharedImages(ImageSource):
    """What fsspec reaches by a URL.

    Every question takes a while there, so that what was told of a file counts for `LOOKED_AT` seconds.
    """

    def __init__(self, storage: SharedStorage):
        self.storage, self.name, self.threads = storage, storage.name, AT_ONCE
        self.known: dict[str, tuple[float, State | None]] = {}

    def exists(self) -> bool:
        """A place of object storage is there when a file is below it."""
        with self.storage.fsspec_errors("cannot be listed"):
            return self.storage.type_at(self.storage.path) is not None

    def walk(self) -> FolderOfImages:
        found, endings = FolderOfImages(), known_endings()
        with self.storage.fsspec_errors("cannot be listed; nothing was changed"):
            self.storage.system.invalidate_cache()
            names = sorted(self.storage.system.find(self.storage.path))
        for name in names:
            path = name.removeprefix(self.storage.path).lstrip("/")
            parts = path.split("/")
            left_out = next((end for end, part in enumerate(parts, 1) if is_left_out(part)), None)
            if left_out is not None:
                if not parts[left_out - 1].startswith("."):
                    found.folders_left_out.append("/".join(parts[:left_out]))
            elif path != posixpath.normpath(path):
                found.unreachable[path] = "has a name that is no path of folders; rename it"
            else:
                note_file(found, path, endings)
        found.folders_left_out = list(dict.fromkeys(found.folders_left_out))
        return found

    def read(self, path: str) -> bytes:
        at = self.storage.at(path)
        try:
            size = self.storage.system.info(at).get("size") or 0
            if size > LARGEST_FILE:
                raise Unusable(f"has {size:,} bytes, more than {LARGEST_FILE:,}")
            return bytes(self.storage.system.cat_file(at))
        except Unusable:
            raise
        except FileNotFoundError:
            raise Unreadable("does not exist") from None
        except Exception as error:  # its packages raise any type
            said = " ".join(str(error).split()) or type(error).__name__
            raise Unreadable(f"cannot be read: {said[:300]}") from None

    def look_at(self, paths: Iterable[str]) -> None:
        now = time.monotonic()
        if len(self.known) > MAX_KEPT_STATES:
            self.known.clear()
        waiting = [path for path in dict.fromkeys(paths) if not self.is_known(path, now)]
        if waiting:
            with ThreadPoolExecutor(min(AT_ONCE, len(waiting))) as pool:
                states = list(pool.map(self.ask, waiting))
            self.known |= {path: (now, state) for path, state in zip(waiting, states, strict=True)}

    def is_known(self, path: str, now: float) -> bool:
        return path in self.known and now - self.known[path][0] < LOOKED_AT

    def state(self, path: str) -> State | None:
        self.look_at([path])
        known = self.known.get(path)  # another thread may have cleared them
        return self.ask(path) if known is None else known[1]

    def ask(self, path: str) -> State | None:
        """What storage says of a file, its date and tag included, under whatever names it has them."""
        try:
            about = self.storage.system.info(self.storage.at(path))
        except Exception:  # its packages raise any type; what reads the file says why
            return None
        return tuple(sorted((str(key), str(value)) for key, value in about.items()))

    def write(self, path: str, content: bytes) -> None:
        self.storage.put(path, content)
        self.known.pop(path, None)

    def named(self, path: str) -> str:
        return f"{self.name}/{path}"

    def paths_of(self, name: str) -> list[str]:
        if name == self.name or name.startswith(f"{self.name}/"):
            name = name.removeprefix(self.name).lstrip("/") or "."
        inside = posixpath.normpath(name)
        return [] if is_url(name) or inside.startswith("..") else [inside]


def open_images(name: str, what: str) -> ImageSource:
    """The images below a folder or URL. Raises UserError; `what` is the option, or file, that named it."""
    if is_url(name):
        storage = open_storage(name, what)
        return SharedImages(storage) if isinstance(storage, SharedStorage) else LocalImages(Path(storage.name))
    return LocalImages(named_path(name, what))


def is_own_folder(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder with these names in it is that of a gallery, or a part of one: it holds no images to index."""
    if MANIFEST in names and any(name in names for name in (LOCK, RECORDS, INDEX)):
        return True
    beside = folder.parent
    return folder.name in (PAGE, RECORDS, INDEX) and (beside / MANIFEST).is_file() and (beside / RECORDS).is_dir()
