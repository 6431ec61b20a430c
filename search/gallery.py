"""A gallery: images of a folder, encoded by one model, to be searched by text.

    GALLERY/gallery.json   which model and preprocessing made it, which folder its images are in
    GALLERY/records/       embeddings and metadata as plain files (search/records.py)
    GALLERY/index.db       the search index of Milvus Lite, which can be built again from the records
    GALLERY/page/          what the web page shows, while it is served

With a Milvus server in place of GALLERY (http://host:19530), the first two stand in a folder named after it.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dataset.decoding import Unusable, read_content
from dataset.digests import digest_of
from search.encoder import Encoder
from search.records import Record, Records
from search.store import OWN_FIELDS, Store, is_server, synchronise
from utils.errors import UserError
from utils.files import read_json, require_folder, write_json

FORMAT = 1
ABOUT, RECORDS, INDEX, SYNCHRONISED, LOCK = "gallery.json", "records", "index.db", "synchronised.json", ".lock"
PAGE, ERASING = "page", "erasing"
COLLECTION = "gallery"


class Gallery:
    """An open gallery; one process at a time holds it."""

    def __init__(self, folder: Path, about: dict[str, Any], records: Records, store: Store):
        self.folder, self.about, self.records, self.store = folder, about, records, store
        self.known_columns: tuple[dict[str, Any], dict[str, list[Any]]] = {}, {}

    @property
    def images(self) -> Path:
        """The folder that the paths of its images start from."""
        return Path(self.about["images"])

    def path_of(self, path: str) -> Path:
        """The file of an image of this gallery; only what is in it has one. Raises UserError."""
        if path not in self.records.by_path:
            raise UserError(f"the gallery holds no image {path!r}")
        return self.images / path

    def content_of(self, path: str) -> bytes:
        """The file of an image as it was indexed: what has taken its place since is never looked at or shown.

        Raises UserError when the gallery holds no such image, Unusable when its file is gone or another one.
        """
        content = read_content(self.path_of(path))
        if digest_of(content) != self.records.by_path[path].digest:
            raise Unusable("has changed since it was indexed; index the folder again")
        return content

    def columns(self) -> dict[str, list[Any]]:
        """Metadata by name with the values they take, sorted: what can be filtered by."""
        if self.known_columns[0] != self.state():
            self.known_columns = self.state(), self.find_columns()
        return self.known_columns[1]

    def find_columns(self) -> dict[str, list[Any]]:
        found: dict[str, set[Any]] = {}
        for record in self.records:
            for name, value in record.metadata.items():
                found.setdefault(name, set()).add(value)
        return {name: sorted(values, key=lambda one: (isinstance(one, str), one)) for name, values in found.items()}

    def synchronise(self) -> None:
        """Have the index hold what the records hold, unless it is known to.

        Raises UserError when it holds images of another gallery.
        """
        if (self.folder / ERASING).exists() or self.records.entries > len(self.records):  # its process was killed
            self.erase()
        path, there = self.folder / SYNCHRONISED, self.store.count()
        if not self.records.files() and there:
            raise UserError(
                f"{self.store.uri} holds {there} images of another gallery in {self.store.collection}; name another,"
                f" such as {self.store.uri}/mine"
            )
        if there == len(self.records) and path.exists() and read_json(path, "state of the index") == self.state():
            return
        synchronise(self.store, self.records)
        write_json(path, self.state())

    def put(self, records: Sequence[Record]) -> None:
        """Add images, or replace what was known of them: first in the records, then in the index."""
        old = [self.records.by_path[record.path].id for record in records if record.path in self.records.by_path]
        self.records.add(records)
        self.store.remove(old)
        self.store.put(records)

    def drop(self, paths: Sequence[str]) -> None:
        """Images whose files are gone: they count no more, and go for good with the next `erase`."""
        old = [self.records.by_path[path].id for path in paths]
        self.records.drop(paths)
        self.store.remove(old)

    def finish(self) -> None:
        """After changes: a complete index, known to hold what the records hold."""
        self.store.finish()
        write_json(self.folder / SYNCHRONISED, self.state())

    def state(self) -> dict[str, Any]:
        return {"records": self.records.newest(), "images": len(self.records)}

    def forget(self, paths: list[str]) -> None:
        """Erase images from records and index, and copies that a page has shown; their files are left alone."""
        self.records.lose(paths)
        self.erase()

    def erase(self) -> None:
        """Write records and index anew, with what counts alone: both only mark what is replaced or removed."""
        self.clear_page()
        (self.folder / ERASING).touch()
        self.records.rewrite()
        self.rebuild()
        (self.folder / ERASING).unlink()

    @property
    def page(self) -> Path:
        """The folder of what a web page shows: copies of images and heat maps."""
        return self.folder / PAGE

    def clear_page(self) -> None:
        shutil.rmtree(self.page, ignore_errors=True)

    def rebuild(self) -> None:
        """Build the index again from the records."""
        self.store.clear()
        self.store.put(list(self.records))
        self.finish()


def place_of(gallery: str) -> tuple[str, str, Path]:
    """Address of the index, name of its collection, folder of the plain files.

    A server is http://host:port, or http://host:port/NAME for one of several galleries on it. Raises UserError.
    """
    if not is_server(gallery):
        return str(Path(gallery) / INDEX), COLLECTION, Path(gallery)
    address = urlsplit(gallery)
    name = address.path.strip("/") or COLLECTION
    if not address.hostname or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UserError(f"--gallery {gallery}: give http://host:port or http://host:port/NAME (letters, digits and _)")
    uri = urlunsplit((address.scheme, address.netloc, "", "", ""))
    return uri, name, Path(f"{address.hostname}-{address.port or 19530}-{name}")


@contextlib.contextmanager
def open_gallery(
    gallery: str, encoder: Encoder, images: str | Path | None = None, anew: bool = False
) -> Iterator[Gallery]:
    """Open a gallery, or make one when `images`, the folder to be indexed, is given. anew: its index is built again.

    The index is brought in line with the records, which are right whatever happened to the last process.

    Raises UserError when it does not exist, was made by another model, is of another folder, or is held by another
    process.
    """
    uri, collection, folder = place_of(str(gallery))
    images = None if images is None else Path(images)
    if images is None and not (folder / ABOUT).is_file():
        raise UserError(no_gallery(gallery))
    require_folder(folder, "--gallery")
    with claimed(folder, gallery):
        about = open_about(folder, encoder, images)
        records = Records(folder / RECORDS)
        if anew and not is_server(str(gallery)):
            shutil.rmtree(folder / INDEX, ignore_errors=True)
            (folder / INDEX).unlink(missing_ok=True)
        store = Store(uri, collection, encoder.dimensions)
        try:
            opened = Gallery(folder, about, records, store)
            if anew:
                opened.rebuild()
            opened.synchronise()
            yield opened
        finally:
            store.close()


def open_about(folder: Path, encoder: Encoder, images: Path | None) -> dict[str, Any]:
    """Read gallery.json, or write it. Raises UserError when it speaks of another model or folder."""
    path, made_with = folder / ABOUT, encoder.identity()
    if not path.exists():
        if images is None:
            raise UserError(f"{folder} is no gallery: there is no {ABOUT} in it")
        if any(entry.name != LOCK for entry in folder.iterdir()):
            raise UserError(f"--gallery {folder} holds something else; name a new folder")
        about = {"format": FORMAT, "images": str(images.resolve()), "encoder": encoder.source, "made_with": made_with}
        write_json(path, about, indent=2)
        return about
    about = read_json(path, "gallery file")
    if not isinstance(about, dict) or about.get("format") != FORMAT or not isinstance(about.get("made_with"), dict):
        raise UserError(f"{path} is no gallery file of this version; name another folder")
    for name, value in made_with.items():
        before = about["made_with"].get(name)
        if before != value:
            was = "by another model" if name == "model" else f"with {name} {before}, not {value}"
            raise UserError(f"gallery {folder} was made {was}: {checkpoint_of(about)}; use that, or make a new one")
    if images is not None and str(images.resolve()) != about["images"]:
        raise UserError(f"gallery {folder} is of the images in {about['images']}; name a new one for {images}")
    return about


def no_gallery(gallery: str) -> str:
    return f"there is no gallery {gallery}; make it: python -m search index FOLDER --gallery {gallery} --checkpoint C"


def checkpoint_of(about: Mapping[str, Any]) -> str:
    """What gallery.json says of the model's file."""
    source = about.get("encoder")
    return str(source.get("checkpoint")) if isinstance(source, dict) else "an unknown checkpoint"


def recorded_encoder(gallery: str) -> dict[str, Any]:
    """The arguments of `Encoder.open` that made a gallery. Raises UserError when there is no such gallery."""
    path = place_of(gallery)[2] / ABOUT
    if not path.is_file():
        raise UserError(no_gallery(gallery))
    about = read_json(path, "gallery file")
    source = about.get("encoder") if isinstance(about, dict) else None
    if not isinstance(source, dict) or not isinstance(source.get("checkpoint"), str):
        raise UserError(f"{path} does not say which checkpoint made it; give --checkpoint")
    return source


@contextlib.contextmanager
def claimed(folder: Path, gallery: str) -> Iterator[None]:
    """Keep other processes out; the lock ends with the process. Raises UserError naming who holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not lockf, which lets the same process in twice
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"gallery {gallery} is open in process {file.read().strip() or 'of unknown number'}, and one at a time"
                " can hold it; end that one, or ask it by its HTTP API if it serves"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def check_columns(names: list[str], where: str) -> None:
    """Raises UserError for names of metadata that the index needs itself, or that a filter cannot write."""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UserError(f"{where}: two columns are called {name!r}")
        if name in (*OWN_FIELDS, "digest") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"{where}: no filter can name column {name!r}; use letters, digits and _, not id or path")
