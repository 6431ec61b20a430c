"""A gallery: images of a folder, encoded by one model, to be searched by text.

    GALLERY/gallery.json   which model and preprocessing made it, which folder its images are in
    GALLERY/records/       embeddings and metadata as plain files (search/files/records.py)
    GALLERY/index.db       the search index of Milvus Lite, which can be built again from the records
    GALLERY/columns.json   which metadata there are, beside an index on a server, for processes that only search
    GALLERY/moving.json    the new folder and paths of images that are being moved, until the first two hold them
    GALLERY/page/          what the web page shows, while it is served; none of this is an image to be indexed

With a Milvus server in place of GALLERY (http://host:19530), all but index.db are in a folder named after it, or where
--files says. One process at a time changes a gallery; of one on a server, any number of others search meanwhile
(search/gallery/searchable_gallery.py).
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search.encoder import Encoder
from search.files.images import ImageSource, open_images
from search.files.names import INDEX, MANIFEST, PAGE
from search.files.records import IndexedImage, Records
from search.files.storage import Storage
from search.gallery.address import Address, require_gallery_folder
from search.gallery.searchable_gallery import (
    COLUMNS,
    FORMAT,
    Neighbour,
    SearchableGallery,
    columns_of,
    read_manifest,
    require_same_encoder,
    shortened,
)
from search.milvus.collection_names import own_name
from search.milvus.index_types import AUTO, require_index_type
from search.milvus.store import ROWS, Store, synchronise
from utils.errors import UserError
from utils.text import counted

INDEX_TYPE = "index_type"  # in gallery.json, where one was chosen
SYNCHRONISED, ERASING, MOVING = "synchronised.json", "erasing", "moving.json"
HELD = "end that one, or use its HTTP API if it serves"


class Gallery(SearchableGallery):
    """An open gallery; one process at a time holds it, and may change it."""

    records: Records

    def __init__(self, address: Address, manifest: Mapping[str, Any], records: Records, store: Store, page: Path):
        """manifest: the content of gallery.json; page: the folder of what a web page shows."""
        super().__init__(manifest, records, store, page)
        self.address, self.files = address, records.storage
        self.known_columns: tuple[dict[str, Any], dict[str, list[Any]]] = {}, {}
        self.index_is_stale = False  # whether the index may lack what the records hold

    def columns(self) -> dict[str, list[Any]]:
        if self.known_columns[0] != self.state():
            self.known_columns = self.state(), columns_of(self.records)
        return self.known_columns[1]

    def synchronise(self) -> None:
        """Make the index hold what the records hold, unless it is known to.

        Raises UserError when it holds images of another gallery.
        """
        if self.files.exists(ERASING) or self.records.entries > len(self.records):  # its process was killed
            self.compact()
        there = self.store.count()
        if not self.records.files and there:
            raise UserError(
                f"{self.store.uri} holds {counted(there, 'image')} of another gallery in {self.store.collection};"
                f" name another, such as {self.store.uri}/mine"
            )
        known = self.files.read_json(SYNCHRONISED, "state of the index") if self.files.exists(SYNCHRONISED) else {}
        if there == len(self.records) and known == self.state():
            return
        if there and any(known.get(name) != self.state().get(name) for name in ("rows", "index")):
            self.rebuild()  # of an earlier version, or its type has been changed
            return
        synchronise(self.store, self.records)
        self.record_state()

    @contextlib.contextmanager
    def updating_index(self) -> Iterator[None]:
        """Change the records, then the index.

        Where that is out of reach, the next change or search brings it in line first, so that nothing is acknowledged
        which the index lacks.
        """
        self.sync_if_stale()
        self.index_is_stale = True
        yield
        self.index_is_stale = False

    def sync_if_stale(self) -> None:
        """Bring the index in line after a change that it could not follow."""
        if self.index_is_stale:
            self.synchronise()
            self.index_is_stale = False

    def nearest(self, embeddings: np.ndarray, count: int, where: str) -> list[list[Neighbour]]:
        self.sync_if_stale()
        return super().nearest(embeddings, count, where)

    def add_or_replace(self, images: Sequence[IndexedImage]) -> None:
        """Add images, or replace those of the same paths."""
        with self.updating_index():
            old = [self.records.by_path[image.path].id for image in images if image.path in self.records.by_path]
            self.records.add(images)
            self.store.remove(old)
            self.store.upsert(images)

    def drop(self, paths: Sequence[str]) -> None:
        """Remove images whose files are gone; the next `compact` removes the last traces of them."""
        with self.updating_index():
            old = [self.records.by_path[path].id for path in paths]
            self.records.drop(paths)
            self.store.remove(old)

    def finish(self) -> None:
        """After changes: complete the index, and note that it holds what the records hold."""
        self.store.finish()
        self.record_state()

    def record_state(self) -> None:
        """Note that the index holds what the records hold, and which metadata there are."""
        if self.address.is_server:
            self.files.write_json(COLUMNS, shortened(self.columns()))
        self.files.write_json(SYNCHRONISED, self.state())

    def state(self) -> dict[str, Any]:
        """What tells one state of the records, and of what the index says of an image, from another."""
        asked = (
            {} if self.store.requested_type == AUTO else {"index": self.store.requested_type}
        )  # as before there was a choice
        return {"records": self.records.newest(), "images": len(self.records), "rows": ROWS, **asked}

    def forget(self, paths: Sequence[str]) -> None:
        """Erase images from records and index, and copies that a page has uploaded; their files are left alone."""
        with self.updating_index():
            self.clear_copies({self.records.by_path[path].digest for path in paths})
            self.records.drop(paths)  # on the disk first: what could not be written is still there
            self.compact()

    def compact(self) -> None:
        """Write records and index anew, with the current images alone: both only mark what is replaced or removed."""
        self.files.write_json(ERASING, {})
        self.records.rewrite()
        self.rebuild()
        self.files.remove(ERASING)

    def move(self, images: ImageSource, paths: Mapping[str, str]) -> None:
        """Let the images be below another folder, some under new `paths` by their old ones, which none of them has.

        A process that is killed has either moved nothing, or the next one finishes it.
        """
        self.files.write_json(MOVING, {"images": images.name, "paths": dict(paths)})
        self.manifest, self.image_source = finish_move(self.files, self.records, self.manifest), images
        self.synchronise()

    def record_encoder(self, source: Mapping[str, Any]) -> None:
        """Note where the model of this gallery is now."""
        self.manifest = {**self.manifest, "encoder": dict(source)}
        self.files.write_json(MANIFEST, self.manifest, indent=2)

    def choose_index(self, index_type: str) -> None:
        """Build the index again from the records as another type (`milvus.index_types.CHOICES`), which is recorded.

        Raises UserError, before anything is changed, when this Milvus has no such type. A process that is killed has
        changed nothing, or the next one finishes it.
        """
        self.store.require_buildable(require_index_type(index_type))
        self.manifest = {**self.manifest, INDEX_TYPE: index_type}
        self.files.write_json(MANIFEST, self.manifest, indent=2)
        self.store.requested_type = index_type
        self.rebuild()

    def rebuild(self) -> None:
        """Build the index again from the records."""
        self.store.replace(self.records)
        self.record_state()


# ---- opening ---------------------------------------------------------------------------


@contextlib.contextmanager
def open_gallery(
    gallery: str,
    encoder: Encoder,
    images: str | Path | ImageSource | None = None,
    anew: bool = False,
    files: str | None = None,
    index_type: str | None = None,
) -> Iterator[Gallery]:
    """Open a gallery, or make one when `images`, the folder or URL to be indexed, is given.

    anew: its index is built again. files: where the plain files of a gallery on a server are. The index is brought in
    line with the records, which are right however the last process ended. index_type: of a gallery that is made
    (`search.milvus.index_types.CHOICES`); one that is there has its own, and with `anew` gets this one.

    Raises UserError when it does not exist, was made by another model, is of another folder, or is held by another
    process.
    """
    address = Address.parse(str(gallery), files)
    require_gallery_folder(address, create_missing=images is not None)
    storage = address.storage()
    with storage.lock(f"gallery {gallery}", HELD):
        records = Records(storage)
        if storage.exists(MOVING):  # its process was killed
            finish_move(storage, records, storage.read_json(MANIFEST, "gallery file"))
        source = images if images is None or isinstance(images, ImageSource) else open_images(str(images), "images")
        manifest = open_manifest(address, storage, encoder, source, index_type)
        current_type = require_index_type(manifest.get(INDEX_TYPE, AUTO))
        new_type = None if index_type in (None, current_type) else index_type
        if new_type and not anew:
            raise UserError(
                f"the index of gallery {gallery} is {current_type}; to build it as {new_type}:"
                f" python -m search rebuild --gallery {gallery} --index_type {new_type}"
            )
        if anew and not new_type:
            remove_index_file(address)
        store = Store(address.uri, address.collection, encoder.dimensions, requested_type=current_type)
        try:
            opened = Gallery(address, manifest, records, store, address.folder / PAGE)
            if images is not None and encoder.source not in ({}, manifest.get("encoder")):
                opened.record_encoder(encoder.source)
            if new_type:
                opened.choose_index(new_type)
            elif anew:
                opened.rebuild()
            opened.clear_page()  # of a process that was killed
            opened.synchronise()
            yield opened
        finally:
            store.close()


def remove_index_file(address: Address) -> None:
    """Remove the index of a gallery in a folder before it is opened: it may be damaged, and is built again."""
    if not address.is_server:
        shutil.rmtree(address.folder / INDEX, ignore_errors=True)
        (address.folder / INDEX).unlink(missing_ok=True)


def finish_move(files: Storage, records: Records, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Do what moving.json says, however much of it was done already; returns the new content of gallery.json."""
    moving = files.read_json(MOVING, "file of a move")
    records.rename(moving["paths"])
    moved = {**manifest, "images": moving["images"]}
    files.write_json(MANIFEST, moved, indent=2)
    files.remove(MOVING)
    return moved


def open_manifest(
    address: Address, files: Storage, encoder: Encoder, images: ImageSource | None, index_type: str | None = None
) -> dict[str, Any]:
    """Read gallery.json, or write it. Raises UserError when it is of another model or folder."""
    made_with = encoder.fingerprint()
    if not files.exists(MANIFEST):
        if images is None:
            raise address.missing()
        manifest = {"format": FORMAT, "images": images.name, "encoder": encoder.source, "made_with": made_with}
        if index_type not in (None, AUTO):
            require_buildable(address, encoder, require_index_type(index_type))
            manifest[INDEX_TYPE] = index_type
        files.write_json(MANIFEST, manifest, indent=2)
        return manifest
    manifest = read_manifest(files)
    require_same_encoder(files.name, manifest, made_with)
    if images is not None and images.name != manifest["images"]:
        raise UserError(
            f"gallery {files.name} is of the images in {manifest['images']}; name a new one for {images}, or, if they"
            f" were moved there: python -m search move --gallery {address.name} --images {images}"
        )
    return manifest


def require_buildable(address: Address, encoder: Encoder, index_type: str) -> None:
    """Raises UserError unless the Milvus of a gallery that is about to be made builds indices of a type."""
    with tempfile.TemporaryDirectory(prefix="person-search-") as folder:
        uri = address.uri if address.is_server else str(Path(folder) / INDEX)
        store = Store(uri, own_name(address.collection, "types"), encoder.dimensions)
        try:
            store.require_buildable(index_type)
        finally:
            store.discard()
            store.close()


def require_writable_gallery(gallery: SearchableGallery) -> Gallery:
    """A gallery that this process may change. Raises UserError for one that it only searches."""
    if not isinstance(gallery, Gallery):
        raise UserError("this process only searches the gallery; another one changes it")
    return gallery
