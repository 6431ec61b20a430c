"""A gallery: images of a folder, encoded by one model, to be searched by text.

    GALLERY/gallery.json   which model and preprocessing made it, which folder its images are in
    GALLERY/records/       embeddings and metadata as plain files (search/records.py)
    GALLERY/index.db       the search index of Milvus Lite, which can be built again from the records
    GALLERY/moving.json    the new folder and paths of images that are being moved, until the first two hold them
    GALLERY/page/          what the web page shows, while it is served; none of this is an image to be indexed

With a Milvus server in place of GALLERY (http://host:19530), all but index.db are in a folder named after it.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlsplit, urlunsplit

from dataset.decoding import Unusable, decode, read_content
from dataset.digests import blake2_of
from search.cuts import cut, file_and_box
from search.encoder import Encoder
from search.milvus_login import require_no_login
from search.records import IndexedImage, Records
from search.store import Store, is_server, synchronise
from utils.errors import UserError
from utils.files import named_path, read_json, require_folder, write_json
from utils.locks import locked
from utils.paths import is_text, printable
from utils.text import counted

FORMAT = 1
ABOUT, RECORDS, INDEX, SYNCHRONISED, LOCK = "gallery.json", "records", "index.db", "synchronised.json", ".lock"
PAGE, ERASING, MOVING = "page", "erasing", "moving.json"
COLLECTION = "gallery"


class Gallery:
    """An open gallery; one process at a time holds it."""

    def __init__(self, folder: Path, about: Mapping[str, Any], records: Records, store: Store):
        """about: the content of gallery.json."""
        self.folder, self.about, self.records, self.store = folder, about, records, store
        self.known_columns: tuple[dict[str, Any], dict[str, list[Any]]] = {}, {}

    @property
    def images(self) -> Path:
        """The folder that the paths of its images start from."""
        return Path(self.about["images"])

    def path_of(self, path: str) -> Path:
        """The file of an image of this gallery. Raises UserError when the gallery holds no such image."""
        if path not in self.records.by_path:
            raise UserError(f"the gallery holds no image {path!r}")
        return self.images / self.records.by_path[path].file

    def content_of(self, path: str) -> bytes:
        """An image as it was indexed, as a file: another image that has taken its place is never read or shown.

        Raises UserError when the gallery holds no such image, Unusable when its file is gone or another one.
        """
        content, box = self.frame_of(path), file_and_box(path)[1]
        return content if box is None else cut(decode(content), box)

    def frame_of(self, path: str) -> bytes:
        """The whole file that an image is, or is cut out of; else as `content_of`."""
        content = read_content(self.path_of(path))
        if blake2_of(content) != self.records.by_path[path].digest:
            raise Unusable("has changed since it was indexed; index the folder again")
        return content

    def columns(self) -> dict[str, list[Any]]:
        """Metadata by name with the values they take, sorted: what can be filtered by."""
        if self.known_columns[0] != self.state():
            self.known_columns = self.state(), self.find_columns()
        return self.known_columns[1]

    def find_columns(self) -> dict[str, list[Any]]:
        found: dict[str, set[Any]] = {}
        for image in self.records:
            for name, value in image.metadata.items():
                found.setdefault(name, set()).add(value)
        return {name: sorted(values, key=lambda one: (isinstance(one, str), one)) for name, values in found.items()}

    def synchronise(self) -> None:
        """Make the index hold what the records hold, unless it is known to.

        Raises UserError when it holds images of another gallery.
        """
        if (self.folder / ERASING).exists() or self.records.entries > len(self.records):  # its process was killed
            self.erase()
        path, there = self.folder / SYNCHRONISED, self.store.count()
        if not self.records.files() and there:
            raise UserError(
                f"{self.store.uri} holds {counted(there, 'image')} of another gallery in {self.store.collection};"
                f" name another, such as {self.store.uri}/mine"
            )
        if there == len(self.records) and path.exists() and read_json(path, "state of the index") == self.state():
            return
        synchronise(self.store, self.records)
        write_json(path, self.state())

    def put(self, images: Sequence[IndexedImage]) -> None:
        """Add images, or replace those of the same paths: first in the records, then in the index."""
        old = [self.records.by_path[image.path].id for image in images if image.path in self.records.by_path]
        self.records.add(images)
        self.store.remove(old)
        self.store.put(images)

    def drop(self, paths: Sequence[str]) -> None:
        """Remove images whose files are gone; the next `erase` removes the last traces of them."""
        old = [self.records.by_path[path].id for path in paths]
        self.records.drop(paths)
        self.store.remove(old)

    def finish(self) -> None:
        """After changes: complete the index, and note that it holds what the records hold."""
        self.store.finish()
        write_json(self.folder / SYNCHRONISED, self.state())

    def state(self) -> dict[str, Any]:
        """What tells one state of the records from another."""
        return {"records": self.records.newest(), "images": len(self.records)}

    def forget(self, paths: Sequence[str]) -> None:
        """Erase images from records and index, and copies that a page has shown; their files are left alone."""
        self.records.remove(paths)
        self.erase()

    def erase(self) -> None:
        """Write records and index anew, with the current images alone: both only mark what is replaced or removed."""
        self.clear_page()
        (self.folder / ERASING).touch()
        self.records.rewrite()
        self.rebuild()
        (self.folder / ERASING).unlink()

    def move(self, images: Path, paths: Mapping[str, str]) -> None:
        """Let the images be below another folder, some under new `paths` by their old ones, which none of them has.

        A process that is killed has either moved nothing, or the next one finishes it.
        """
        write_json(self.folder / MOVING, {"images": str(images), "paths": dict(paths)})
        self.about = finish_move(self.folder, self.records, self.about)
        self.synchronise()

    def record_encoder(self, source: Mapping[str, Any]) -> None:
        """Note where the model of this gallery is now."""
        self.about = {**self.about, "encoder": dict(source)}
        write_json(self.folder / ABOUT, self.about, indent=2)

    @property
    def page(self) -> Path:
        """The folder of what a web page shows: copies of images and heat maps."""
        return self.folder / PAGE

    def clear_page(self) -> None:
        """Remove what a web page has shown."""
        shutil.rmtree(self.page, ignore_errors=True)

    def rebuild(self) -> None:
        """Build the index again from the records."""
        self.store.clear()
        self.store.put(list(self.records))
        self.finish()


# ---- opening ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """Where a gallery is. name: as it was given; uri and collection: of its index; folder: of its plain files."""

    name: str
    uri: str
    collection: str
    folder: Path

    @classmethod
    def parse(cls, name: str) -> "Address":
        """A folder, or a Milvus server: http://host:port, or http://host:port/NAME for one of several galleries on it.

        Raises UserError.
        """
        if not is_server(name):
            folder = named_path(name, "--gallery")
            if not is_text(name):
                raise UserError(f"--gallery {printable(name)}: its name is not UTF-8; name another")
            return cls(name, str(folder / INDEX), COLLECTION, folder)
        parts = urlsplit(name)
        require_no_login(parts)
        collection = parts.path.strip("/") or COLLECTION
        if not parts.hostname or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", collection):
            raise UserError(f"--gallery {name}: give http://host:port or http://host:port/NAME (letters, digits and _)")
        uri = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        return cls(name, uri, collection, Path(f"{parts.hostname}-{parts.port or 19530}-{collection}"))

    def exists(self) -> bool:
        """Whether there is a gallery."""
        return (self.folder / ABOUT).is_file()

    def missing(self) -> UserError:
        """The error that there is no gallery there."""
        return UserError(
            f"there is no gallery {self.name}; make it:"
            f" python -m search index FOLDER --gallery {self.name} --checkpoint C"
        )


@contextlib.contextmanager
def open_gallery(
    gallery: str, encoder: Encoder, images: str | Path | None = None, anew: bool = False
) -> Iterator[Gallery]:
    """Open a gallery, or make one when `images`, the folder to be indexed, is given. anew: its index is built again.

    The index is brought in line with the records, which are right however the last process ended.

    Raises UserError when it does not exist, was made by another model, is of another folder, or is held by another
    process.
    """
    address = Address.parse(str(gallery))
    folder = address.folder
    require_gallery_folder(address, makes=images is not None)
    with locked(folder / LOCK, f"gallery {gallery}", "end that one, or use its HTTP API if it serves"):
        records = Records(folder / RECORDS)
        if (folder / MOVING).exists():  # its process was killed
            finish_move(folder, records, read_json(folder / ABOUT, "gallery file"))
        about = open_about(address, encoder, None if images is None else Path(images))
        if anew and not is_server(address.uri):
            shutil.rmtree(folder / INDEX, ignore_errors=True)
            (folder / INDEX).unlink(missing_ok=True)
        store = Store(address.uri, address.collection, encoder.dimensions)
        try:
            opened = Gallery(folder, about, records, store)
            if images is not None and encoder.source not in ({}, about.get("encoder")):
                opened.record_encoder(encoder.source)
            if anew:
                opened.rebuild()
            opened.clear_page()  # of a process that was killed
            opened.synchronise()
            yield opened
        finally:
            store.close()


def finish_move(folder: Path, records: Records, about: Mapping[str, Any]) -> dict[str, Any]:
    """Do what moving.json says, however much of it was done already; returns the new content of gallery.json."""
    moving = read_json(folder / MOVING, "file of a move")
    records.rename(moving["paths"])
    moved = {**about, "images": moving["images"]}
    write_json(folder / ABOUT, moved, indent=2)
    (folder / MOVING).unlink()
    return moved


def require_gallery_folder(address: Address, makes: bool) -> None:
    """Raises UserError unless the folder holds a gallery, or one can be made there; nothing is written yet."""
    folder = address.folder
    if address.exists():
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(
                f"gallery {folder} cannot be written (a read-only disk, or no permission), but its lock and its index"
                " are written whenever it is opened; copy it to where you may write"
            )
        return
    if not makes:
        raise address.missing()
    require_folder(folder, "--gallery")
    ours = (LOCK, f".{ABOUT}.")  # of a process that is about to make a gallery there
    if folder.is_dir() and not all(entry.name.startswith(ours) for entry in folder.iterdir()):
        raise UserError(f"--gallery {folder} holds something else; name a new folder")


def open_about(address: Address, encoder: Encoder, images: Path | None) -> dict[str, Any]:
    """Read gallery.json, or write it. Raises UserError when it is of another model or folder."""
    path, made_with = address.folder / ABOUT, encoder.identity()
    if not path.exists():
        if images is None:
            raise address.missing()
        about = {"format": FORMAT, "images": str(images.resolve()), "encoder": encoder.source, "made_with": made_with}
        write_json(path, about, indent=2)
        return about
    about = read_json(path, "gallery file")
    if not is_about(about):
        raise UserError(f"{path} is not a gallery file of this version; name another folder")
    require_same_encoder(address.folder, about, made_with)
    if images is not None and str(images.resolve()) != about["images"]:
        raise UserError(
            f"gallery {address.folder} is of the images in {about['images']}; name a new one for {images}, or, if they"
            f" were moved there: python -m search move --gallery {address.name} --images {images}"
        )
    return about


def is_own_folder(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder with these names in it is that of a gallery, or a part of one: it holds no images to index."""
    if ABOUT in names and any(name in names for name in (LOCK, RECORDS, INDEX)):
        return True
    beside = folder.parent
    return folder.name in (PAGE, RECORDS, INDEX) and (beside / ABOUT).is_file() and (beside / RECORDS).is_dir()


def is_about(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value is the content of a gallery.json of this version."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return False
    return isinstance(value.get("made_with"), dict) and isinstance(value.get("images"), str)


def require_same_encoder(folder: Path, about: Mapping[str, Any], made_with: Mapping[str, Any]) -> None:
    """Raises UserError unless the gallery was made by this model and preprocessing."""
    for name, value in made_with.items():
        before = about["made_with"].get(name)
        if before != value:
            was = "by another model" if name == "model" else f"with {name} {before}, not {value}"
            raise UserError(f"gallery {folder} was made {was}: {checkpoint_of(about)}; use that, or make a new one")


def checkpoint_of(about: Mapping[str, Any]) -> str:
    """What gallery.json says of the model's file."""
    source = about.get("encoder")
    return str(source.get("checkpoint")) if isinstance(source, dict) else "an unknown checkpoint"


def recorded_encoder(gallery: str, checkpoint: Path | None = None) -> dict[str, Any]:
    """The arguments of `Encoder.open` that made a gallery; checkpoint: where another copy of its model is.

    Raises UserError when there is no such gallery, or no such model any more.
    """
    address = Address.parse(gallery)
    if not address.exists():
        raise address.missing()
    path = address.folder / ABOUT
    about = read_json(path, "gallery file")
    recorded = about.get("encoder") if isinstance(about, dict) else None
    source = dict(recorded) if isinstance(recorded, dict) else {}
    source["overrides"] = source.get("overrides") or []
    if checkpoint is not None:
        config = source.get("config")
        return {**source, "checkpoint": str(checkpoint), "config": config if config and Path(config).exists() else None}
    if not isinstance(source.get("checkpoint"), str):
        raise UserError(f"{path} does not say which checkpoint made it; give --checkpoint")
    if not Path(source["checkpoint"]).exists():
        raise UserError(
            f"checkpoint {source['checkpoint']}, which made the gallery {gallery}, does not exist; if it was moved:"
            f" python -m search move --gallery {gallery} --checkpoint NEW"
        )
    return source
