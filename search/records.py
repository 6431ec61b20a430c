"""What a gallery knows of its images, as plain files: what the search index is built from, and can be built from again.

    records/00000001.npz   some images: ids, paths, digests, embeddings, metadata; or which are forgotten

Files are written whole, one after the other, and never changed: what a later one says of an image counts. Letters:
R images of a file, E embedding.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import atomic_write, remove_leftovers


@dataclass(frozen=True)
class Record:
    """An image: path below the indexed folder, digest (SHA-256) of the file, embedding [E] of length 1, metadata."""

    path: str
    digest: str
    embedding: np.ndarray
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Its name in the index, 32 hexadecimal digits: another one when anything but the path has changed too."""
        said = json.dumps([self.path, self.digest, dict(self.metadata)], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:32]


class Records:
    """The images of a gallery by path, kept in a folder of plain files."""

    def __init__(self, folder: Path):
        """Raises UserError when a file is damaged."""
        self.folder = folder
        self.by_path: dict[str, Record] = {}
        self.by_id: dict[str, Record] = {}
        self.entries = 0  # in all files
        remove_leftovers(folder)
        for path in self.files():
            self.read(path)

    def files(self) -> list[Path]:
        """In the order in which they were written."""
        return sorted(self.folder.glob("*.npz"))

    def newest(self) -> str:
        """Name of the last file that was written; empty without any."""
        return max((path.name for path in self.files()), default="")

    def __len__(self) -> int:
        return len(self.by_path)

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self.by_path.values()))  # others may add some meanwhile

    def take(self, records: Iterable[Record]) -> None:
        """Have them count."""
        for record in records:
            self.lose([record.path])
            self.by_path[record.path] = self.by_id[record.id] = record

    def lose(self, paths: Iterable[str]) -> None:
        """Have them count no more."""
        for path in paths:
            record = self.by_path.pop(path, None)
            if record is not None:
                del self.by_id[record.id]

    def read(self, path: Path) -> None:
        """Take up what a file says."""
        try:
            with np.load(path, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                embeddings = file["embeddings"]
                rows = list(zip(head["paths"], head["digests"], embeddings, head["metadata"], strict=True))
        except Exception as error:  # damaged files make numpy and zipfile raise nearly any type
            raise UserError(
                f"gallery file {path} is damaged ({type(error).__name__}); remove it and index again: what it held is"
                " encoded anew (name --metadata again, if there were any)"
            ) from None
        if head["whole"]:
            self.lose(list(self.by_path))
            self.entries = 0
        self.lose(head["forgotten"])
        self.take(Record(*row) for row in rows)
        self.entries += len(rows) + len(head["forgotten"])

    def add(self, records: Sequence[Record]) -> None:
        """Keep images; on the disk when this returns."""
        self.write(records, ())
        self.take(records)

    def drop(self, paths: Sequence[str]) -> None:
        """Images that are gone: they count no more; what the files hold of them goes with the next `rewrite`."""
        self.write((), paths)
        self.lose(paths)

    def rewrite(self) -> None:
        """One file of what counts in place of all others."""
        older = self.files()
        self.write(list(self), (), whole=True)
        for path in older:
            path.unlink(missing_ok=True)
        self.entries = len(self)

    def write(self, records: Sequence[Record], forgotten: Iterable[str], whole: bool = False) -> None:
        """The next file; whole: what earlier ones say no longer counts."""
        existing = self.files()
        number = int(existing[-1].stem) + 1 if existing else 1
        head = {
            "paths": [record.path for record in records],
            "digests": [record.digest for record in records],
            "metadata": [dict(record.metadata) for record in records],
            "forgotten": list(forgotten),
            "whole": whole,
        }
        embeddings = np.stack([record.embedding for record in records]) if records else np.zeros((0, 0), np.float32)
        with atomic_write(self.folder / f"{number:08d}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, head=np.array(json.dumps(head)), embeddings=embeddings.astype(np.float32))
        self.entries += len(records) + len(head["forgotten"])
