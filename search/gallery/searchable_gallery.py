"""A gallery as a process sees it that searches and changes nothing.

One on a Milvus server is opened so by any number of processes on any number of machines, while another one changes it:
they hold no lock and no list of its images, and what was added or erased is seen by the next search.
"""

import contextlib
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from dataset.decoding import Unusable, decode
from dataset.digests import blake2_of
from search.encoder import Encoder
from search.files.crops import cut, file_and_box
from search.files.images import open_images
from search.files.names import MANIFEST
from search.files.records import IndexedImage, Records
from search.files.storage import Storage
from search.gallery.address import Address
from search.milvus.index_records import FRESH, IndexRecords
from search.milvus.store import Store
from utils.errors import NotThere, UserError

logger = logging.getLogger(__name__)

FORMAT = 1
COLUMNS = "columns.json"
UPLOAD_SECONDS = 600  # within which what a page uploads is in the gallery
MAX_VALUES = 1000  # of a column that columns.json names


@dataclass(frozen=True)
class Neighbour:
    """An image that the index has found, and the cosine of its embedding and that of the query."""

    image: IndexedImage
    similarity: float


def by_similarity(images: Sequence[IndexedImage], embedding: np.ndarray) -> list[Neighbour]:
    """The nearest first; those that are as near by their paths.

    Each product is summed by itself, in an order that does not depend on the others: a product of matrices may sum rows
    in several ways, so that copies of one image would be told apart by chance.
    """
    if not images:
        return []
    stacked = np.stack([image.embedding for image in images]).astype(np.float32)
    values = np.einsum("ke,e->k", stacked, embedding.astype(np.float32), optimize=False).tolist()
    found = [Neighbour(image, value) for image, value in zip(images, values, strict=True)]
    return sorted(found, key=lambda near: (-near.similarity, near.image.path))


class SearchableGallery(ABC):
    """An open gallery to be searched."""

    def __init__(self, manifest: Mapping[str, Any], records: Records | IndexRecords, store: Store, page: Path):
        """manifest: the content of gallery.json; page: the folder of what a web page shows."""
        self.manifest, self.records, self.store, self.page = manifest, records, store, page
        self.image_source = open_images(manifest["images"], "the images of the gallery")

    def image_at(self, path: str) -> IndexedImage:
        """The image of a path. Raises NotThere when the gallery holds no such image, or none any more."""
        image = self.records.by_path.get(path)
        if image is None:
            raise NotThere(f"the gallery holds no image {path!r}")
        return image

    def content_of(self, path: str) -> bytes:
        """An image as it was indexed, as a file: another image that has taken its place is never read or shown.

        Raises UserError when the gallery holds no such image, Unusable when its file is gone or another one.
        """
        return self.read_image(self.image_at(path))

    def read_image(self, image: IndexedImage) -> bytes:
        """An image as it was indexed, as a file, where its record is known; otherwise as `content_of`."""
        content, box = self.read_frame(image), file_and_box(image.path)[1]
        return content if box is None else cut(decode(content), box)

    def frame_of(self, path: str) -> bytes:
        """The whole file that an image is, or is cut out of; otherwise as `content_of`."""
        return self.read_frame(self.image_at(path))

    def read_frame(self, image: IndexedImage) -> bytes:
        """The whole file that an image is, or is cut out of, where its record is known; otherwise as `content_of`."""
        content = self.image_source.read(image.file)
        if blake2_of(content) != image.digest:
            raise Unusable("has changed since it was indexed; index the folder again")
        return content

    def nearest(self, embeddings: np.ndarray, count: int, where: str) -> list[list[Neighbour]]:
        """For each embedding [Q, E] the `count` nearest images, best first; where: a filter on metadata.

        Similarities are those of the embeddings that were kept, also where the index rounds them, and do not depend on
        what is searched with them. Images that are gone since the index found them are left out.
        """
        answers = self.store.search_all(embeddings, count, where)
        images = self.images_of(dict.fromkeys((image_id, path) for found in answers for image_id, path, _ in found))
        return [
            by_similarity([images[image_id] for image_id, _, _ in found if image_id in images], embedding)
            for found, embedding in zip(answers, embeddings, strict=True)
        ]

    def images_of(self, found: Collection[tuple[str, str]]) -> Mapping[str, IndexedImage]:
        """What is known now of images of which a search has found (id, path); those that are gone are left out."""
        known = ((image_id, self.records.by_id.get(image_id)) for image_id, _ in found)
        return {image_id: image for image_id, image in known if image is not None}

    @abstractmethod
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """Metadata by name with the values they take, sorted: what can be filtered by."""

    def clear_page(self) -> None:
        """Remove what was uploaded by a web page."""
        shutil.rmtree(self.page, ignore_errors=True)

    def clear_copies(self, digests: Collection[str]) -> None:
        """Remove copies of these files from what was uploaded by a web page, and what lies there for long.

        The rest stays: it is being uploaded.
        """
        for file in [Path(folder, name) for folder, _, names in os.walk(self.page) for name in names]:
            with contextlib.suppress(FileNotFoundError):  # the page removes and renames some itself
                is_old = time.time() - file.stat().st_mtime > UPLOAD_SECONDS
                if is_old or blake2_of(file.read_bytes()) in digests:
                    file.unlink()


class SharedGallery(SearchableGallery):
    """A gallery on a server, which another process may change at any time."""

    records: IndexRecords

    def __init__(self, files: Storage, encoder: Encoder, store: Store, page: Path):
        """Raises UserError when it was made by another model, or the index is that of an earlier version."""
        self.files, self.fingerprint, self.lock = files, encoder.fingerprint(), threading.Lock()
        self.read_columns: Mapping[str, Sequence[Any]] = {}
        self.manifest_read_at, self.columns_at = time.monotonic(), -math.inf  # when their files were read
        super().__init__(read_manifest(files), IndexRecords(store), store, page)
        require_same_encoder(files.name, self.manifest, self.fingerprint)

    def refresh(self) -> None:
        """Follow what gallery.json says now: where the images are, as `move` may have changed it, and of which model.

        Where it cannot be read, what it said before holds. Raises UserError when the gallery was made anew by another
        model.
        """
        with self.lock:
            if time.monotonic() - self.manifest_read_at <= FRESH:
                return
            try:
                manifest = read_manifest(self.files)
            except UserError as error:
                logger.warning("%s; what was known before is used", error)
                self.manifest_read_at = time.monotonic()
                return
            require_same_encoder(self.files.name, manifest, self.fingerprint)
            if manifest["images"] != self.manifest["images"]:
                self.image_source = open_images(manifest["images"], "the images of the gallery")
            self.manifest, self.manifest_read_at = manifest, time.monotonic()

    def nearest(self, embeddings: np.ndarray, count: int, where: str) -> list[list[Neighbour]]:
        self.refresh()
        return super().nearest(embeddings, count, where)

    def read_frame(self, image: IndexedImage) -> bytes:
        self.refresh()
        return super().read_frame(image)

    def images_of(self, found: Collection[tuple[str, str]]) -> Mapping[str, IndexedImage]:
        return self.records.note(list(found))

    def columns(self) -> Mapping[str, Sequence[Any]]:
        with self.lock:
            if time.monotonic() - self.columns_at > FRESH:
                self.read_columns = self.files.read_json(COLUMNS, "columns") if self.files.exists(COLUMNS) else {}
                self.columns_at = time.monotonic()
            return self.read_columns


@contextlib.contextmanager
def open_shared_gallery(gallery: str, encoder: Encoder, files: str | None = None) -> Iterator[SharedGallery]:
    """Open a gallery on a Milvus server to search it, also while another process changes it.

    Raises UserError when it does not exist or was made by another model.
    """
    address = Address.parse(gallery, files)
    if not address.exists():
        raise address.missing()
    with tempfile.TemporaryDirectory(prefix="person-search-") as page:
        store = Store(address.uri, address.collection, encoder.dimensions, create_missing=False)
        try:
            yield SharedGallery(address.storage(), encoder, store, Path(page))
        finally:
            store.close()


# ---- what gallery.json and columns.json say --------------------------------------------


def read_manifest(files: Storage) -> dict[str, Any]:
    """The content of gallery.json. Raises UserError when it is of another version, or none."""
    manifest = files.read_json(MANIFEST, "gallery file")
    if not is_manifest(manifest):
        raise UserError(f"{files.name}/{MANIFEST} is not a gallery file of this version; name another folder")
    return manifest


def columns_of(images: Iterable[IndexedImage]) -> dict[str, list[Any]]:
    """Metadata by name with the values they take, sorted."""
    found: dict[str, set[Any]] = {}
    for image in images:
        for name, value in image.metadata.items():
            found.setdefault(name, set()).add(value)
    return {name: sorted(values, key=lambda one: (isinstance(one, str), one)) for name, values in found.items()}


def shortened(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Columns whose many values are left out but for the first and last of them, between which the others lie."""
    half = MAX_VALUES // 2
    return {
        name: list(values) if len(values) <= MAX_VALUES else [*values[:half], *values[-half:]]
        for name, values in columns.items()
    }


def is_manifest(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value is the content of a gallery.json of this version."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return False
    return isinstance(value.get("made_with"), dict) and isinstance(value.get("images"), str)


def require_same_encoder(folder: str, manifest: Mapping[str, Any], made_with: Mapping[str, Any]) -> None:
    """Raises UserError unless the gallery was made by this model and preprocessing."""
    for name, value in made_with.items():
        before = manifest["made_with"].get(name)
        if before != value:
            was = "by another model" if name == "model" else f"with {name} {before}, not {value}"
            raise UserError(f"gallery {folder} was made {was}: {checkpoint_of(manifest)}; use that, or make a new one")


def checkpoint_of(manifest: Mapping[str, Any]) -> str:
    """What gallery.json says of the model's file."""
    source = manifest.get("encoder")
    return str(source.get("checkpoint")) if isinstance(source, dict) else "an unknown checkpoint"


def recorded_encoder(gallery: str, checkpoint: Path | None = None, files: str | None = None) -> dict[str, Any]:
    """The arguments of `Encoder.open` that made a gallery; checkpoint: where another copy of its model is.

    Raises UserError when there is no such gallery, or no such model any more.
    """
    address = Address.parse(gallery, files)
    if not address.exists():
        raise address.missing()
    manifest = address.storage().read_json(MANIFEST, "gallery file")
    recorded = manifest.get("encoder") if isinstance(manifest, dict) else None
    source = dict(recorded) if isinstance(recorded, dict) else {}
    source["overrides"] = source.get("overrides") or []
    if checkpoint is not None:
        config = source.get("config")
        return {**source, "checkpoint": str(checkpoint), "config": config if config and Path(config).exists() else None}
    if not isinstance(source.get("checkpoint"), str):
        raise UserError(f"{address.files}/{MANIFEST} does not say which checkpoint made it; give --checkpoint")
    if not Path(source["checkpoint"]).exists():
        raise UserError(
            f"checkpoint {source['checkpoint']}, which made the gallery {gallery}, does not exist; if it was moved:"
            f" python -m search move --gallery {gallery} --checkpoint NEW"
        )
    return source
