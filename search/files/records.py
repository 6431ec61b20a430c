"""What a gallery knows of its images, as plain files: what the search index is built from, and can be built from again.

    records/00000001.npz   some images: paths, digests, embeddings, metadata; or the paths of images that are gone

Files are written whole, one after the other, and never changed: of two that name the same image, the later one is
right. A file is created by one process alone: one whose number another has taken meanwhile writes nothing.

Letters: R images of a file, E embedding.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from search.files.crops import file_and_box
from search.files.names import RECORDS
from search.files.storage import LocalStorage, Storage
from utils.errors import UserError

ID, PATH, VECTOR, DIGEST = "id", "path", "embedding", "digest"
OWN_FIELDS = (ID, PATH, VECTOR, DIGEST)
"""Names that the index gives to fields of an image, and no metadata can have."""
OWN_NAME = re.compile(rf"{RECORDS}/[0-9]{{8,}}\.npz")


@dataclass(frozen=True)
class IndexedImage:
    """An image of a gallery.

    path: below the indexed folder, with the box of a person in a frame (`search.files.crops`); digest: of the file's
    content (BLAKE2b, 128 bits); embedding [E] of length 1; metadata by name.
    """

    path: str
    digest: str
    embedding: np.ndarray
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Its name in the index, 32 hexadecimal digits of a SHA-256: it changes with path, content or metadata."""
        described = json.dumps([self.path, self.digest, dict(self.metadata)], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:32]

    @property
    def file(self) -> str:
        """The path of its file below the indexed folder."""
        return file_and_box(self.path)[0]

    @property
    def content_key(self) -> str:
        """What its pixels, and so its embedding, hang on: the file's content, and the box of a person in it."""
        return make_content_key(self.path, self.digest)


def make_content_key(path: str, digest: str) -> str:
    """`IndexedImage.content_key` of an image of this path whose file has this digest."""
    _, box = file_and_box(path)
    return digest if box is None else f"{digest}#{box}"


class Records:
    """The images of a gallery by path, kept in plain files, and all of them in memory."""

    def __init__(self, storage: Storage | Path):
        """storage: of the gallery; a path is that of a folder. Raises UserError when a file is damaged."""
        self.storage = LocalStorage(storage) if isinstance(storage, Path) else storage
        self.by_path: dict[str, IndexedImage] = {}
        self.by_id: dict[str, IndexedImage] = {}
        self.entries = 0  # in all files, also those that later ones have replaced
        self.storage.tidy(RECORDS)
        self.files = [name for name in self.storage.names(RECORDS) if name.endswith(".npz")]
        for name in self.files:
            self.require_own_name(name)
            self.read(name)

    def require_own_name(self, name: str) -> None:
        """Raises UserError for a file that this program has not named so, such as a copy of one, which may be old."""
        if not OWN_NAME.fullmatch(name):
            raise UserError(
                f"gallery file {self.storage.name}/{name} is not called as files of records are (00000001.npz), so that"
                " nobody knows when it was written; move it out of this folder"
            )

    def newest(self) -> str:
        """Name of the last file that was written; empty without any."""
        return self.files[-1].rpartition("/")[2] if self.files else ""

    def __len__(self) -> int:
        return len(self.by_path)

    def __iter__(self) -> Iterator[IndexedImage]:
        return iter(list(self.by_path.values()))  # another thread may add some meanwhile

    def insert(self, images: Iterable[IndexedImage]) -> None:
        """Add images in memory alone, in place of those of the same paths."""
        for image in images:
            self.remove([image.path])
            self.by_path[image.path] = self.by_id[image.id] = image

    def remove(self, paths: Iterable[str]) -> None:
        """Remove images in memory alone; unknown paths are ignored."""
        for path in paths:
            image = self.by_path.pop(path, None)
            if image is not None:
                del self.by_id[image.id]

    def read(self, name: str) -> None:
        """Apply one file to what earlier ones said. Raises UserError when it is damaged, or cannot be read now."""
        try:
            with self.storage.open(name) as stream:
                content = io.BytesIO(stream.read())
        except OSError as error:
            raise UserError(
                f"gallery file {self.storage.name}/{name} cannot be read: {error.strerror or error}"
            ) from None
        try:
            with np.load(content, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                embeddings = file["embeddings"]
                rows = list(zip(head["paths"], head["digests"], embeddings, head["metadata"], strict=True))
        except Exception as error:  # damaged files make numpy and zipfile raise nearly any type
            raise UserError(
                f"gallery file {self.storage.name}/{name} is damaged ({type(error).__name__}); remove it and index"
                " again: what it held is encoded again (give --metadata again, if there were any)"
            ) from None
        if head["whole"]:
            self.remove(list(self.by_path))
            self.entries = 0
        self.remove(head["forgotten"])
        self.insert(IndexedImage(*row) for row in rows)
        self.entries += len(rows) + len(head["forgotten"])

    def add(self, images: Sequence[IndexedImage]) -> None:
        """Add images, or replace those of the same paths; they are on the disk when this returns."""
        self.write(images, ())
        self.insert(images)

    def drop(self, paths: Sequence[str]) -> None:
        """Record that images are gone; what earlier files hold of them is erased by the next `rewrite`."""
        self.write((), paths)
        self.remove(paths)

    def rename(self, paths: Mapping[str, str]) -> None:
        """Give images new paths by their old ones, which no other image may have; those that have theirs are left."""
        if not self.by_path.keys() & paths.keys():
            return
        images = [replace(image, path=paths.get(image.path, image.path)) for image in self]
        self.remove(list(self.by_path))
        self.insert(images)
        self.rewrite()

    def rewrite(self) -> None:
        """Replace all files by one that holds the current images alone."""
        older = list(self.files)
        self.write(list(self), (), whole=True)
        for name in older:
            self.storage.remove(name)
        self.files = self.files[len(older) :]
        self.entries = len(self)

    def write(self, images: Sequence[IndexedImage], forgotten: Iterable[str], whole: bool = False) -> None:
        """Write the next file; whole: it replaces all earlier ones. Raises UserError when another process writes."""
        number, gone = int(self.newest().removesuffix(".npz") or 0) + 1, list(forgotten)
        head = {
            "paths": [image.path for image in images],
            "digests": [image.digest for image in images],
            "metadata": [dict(image.metadata) for image in images],
            "forgotten": gone,
            "whole": whole,
        }
        embeddings = np.stack([image.embedding for image in images]) if images else np.zeros((0, 0), np.float32)

        def save(file: BinaryIO) -> None:
            np.savez(file, head=np.array(json.dumps(head)), embeddings=embeddings.astype(np.float32))

        name = f"{RECORDS}/{number:08d}.npz"
        try:
            self.storage.write(name, save, new=True)
        except FileExistsError:
            raise UserError(
                f"another process writes to {self.storage.name}; nothing of this was kept: end one, and start again"
            ) from None
        self.files.append(name)
        self.entries += len(images) + len(gone)
