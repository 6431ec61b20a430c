"""Brings a gallery in line with its folder of images: adds what is new, updates what changed, forgets what is gone.

An image is known by its content: what is renamed or copied is not encoded again, and what changed is, whatever its
date says. Each batch is on the disk before the next one, so that a killed process loses the one in flight at most.
"""

import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from dataset.decoding import Unusable, read_content
from dataset.digests import blake2_of
from search.encoder import Encoder
from search.gallery import Gallery
from search.metadata import Metadata, check_images
from search.records import IndexedImage
from utils.errors import UserError
from utils.processes.parallel import available_cores

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
BATCH = 64
READ_AHEAD = 4  # batches
MOST_FILES = 200  # of records, until they are written as one
NOT_TEXT = "has a name that is not UTF-8; rename it"


@dataclass
class Report:
    """How many images were added and so on; unreadable: path -> why."""

    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def count(self, counts: Mapping[str, int]) -> None:
        """Add numbers to `added`, `updated` or `unchanged`."""
        for name, number in counts.items():
            setattr(self, name, getattr(self, name) + number)

    def __str__(self) -> str:
        unreadable = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        kept = f"{self.removed} forgotten, {self.unchanged} unchanged"
        return f"{self.added} added, {self.updated} updated, {kept}{unreadable}"


def images_below(folder: Path) -> list[str]:
    """Paths below `folder`, with /, of all image files, sorted; links to folders are not followed.

    Raises UserError when it is not a folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of images")
    found: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name).relative_to(folder).as_posix()
            for name in files
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return sorted(found)


@dataclass(frozen=True)
class ImageFile:
    """An image file as it is now: its content's digest, and what the model reads, unless that embedding is known.

    fault: why it cannot be used.
    """

    path: str
    digest: str = ""
    image: Tensor | None = None
    fault: str = ""


def read_image(gallery: Gallery, encoder: Encoder, known: Mapping[str, np.ndarray], path: str) -> ImageFile:
    """Read one image file; what is `known` by digest is not decoded."""
    try:
        content = read_content(gallery.images / path)
        digest = blake2_of(content)
        return ImageFile(path, digest, None if digest in known else encoder.read(content))
    except Unusable as fault:
        return ImageFile(path, fault=str(fault))


def in_batches(files: Iterable[ImageFile], size: int) -> Iterator[list[ImageFile]]:
    """Lists of `size` files; the last one may be shorter."""
    rest = iter(files)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def read_ahead(read: Callable[[str], ImageFile], paths: Sequence[str]) -> Iterator[ImageFile]:
    """The files of all paths in order, read by threads that are a few batches ahead."""
    with ThreadPoolExecutor(available_cores()) as pool:
        waiting: deque[Future[ImageFile]] = deque()
        for path in paths:
            waiting.append(pool.submit(read, path))
            if len(waiting) > READ_AHEAD * BATCH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def index(gallery: Gallery, encoder: Encoder, metadata: Metadata | None = None) -> Report:
    """Bring `gallery` in line with its folder. metadata: by path; None = what is known of images stays.

    Raises UserError when metadata are of no image of the folder, or it holds none although the gallery does.
    """
    found = images_below(gallery.images)
    if not found and len(gallery.records):
        raise UserError(
            f"there is no image below {gallery.images} any more; nothing was changed: is it not mounted?"
            " Images of a gallery are erased by python -m search forget"
        )
    check_images(metadata, found)
    paths = [path for path in found if is_text(path)]
    report = Report(unreadable={printable(path): NOT_TEXT for path in found if not is_text(path)})
    add_images(gallery, encoder, paths, metadata, report)
    known = gallery.records.by_path.keys()
    gone = sorted((known - set(paths)) | (known & report.unreadable.keys()))
    if gone:
        gallery.drop(gone)
    report.removed = len(gone)
    if report.removed or report.updated:
        gallery.erase()
    elif len(gallery.records.files()) > MOST_FILES:
        gallery.records.rewrite()
    gallery.finish()
    return report


def is_text(name: str) -> bool:
    """Whether a file's name can be written down: on Linux it can hold any bytes."""
    return printable(name) == name


def printable(name: str) -> str:
    """A file's name, with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def add_images(
    gallery: Gallery, encoder: Encoder, paths: Sequence[str], metadata: Metadata | None, report: Report
) -> None:
    """Read all images, encode those whose content is new, and keep what is new or changed, batch by batch."""
    known = {image.digest: image.embedding for image in gallery.records}
    with tqdm(total=len(paths), desc="images", unit="image", disable=None) as bar:
        files = read_ahead(lambda path: read_image(gallery, encoder, known, path), paths)
        for batch in in_batches(files, BATCH):
            add_batch(gallery, batch, encode_new(encoder, batch, known), metadata, report)
            bar.update(len(batch))


def encode_new(encoder: Encoder, batch: Sequence[ImageFile], known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Embeddings by digest: `known`, to which those of the batch are added."""
    new = {file.digest: file.image for file in batch if file.image is not None}
    if new:
        _, embeddings = encoder.encode_images(list(new.values()))
        known.update(zip(new, embeddings, strict=True))
    return known


def add_batch(
    gallery: Gallery,
    batch: Sequence[ImageFile],
    embeddings: Mapping[str, np.ndarray],
    metadata: Metadata | None,
    report: Report,
) -> None:
    """Keep what is new or changed in a batch, then count it."""
    changed: list[IndexedImage] = []
    counts: Counter[str] = Counter()
    for file in batch:
        if file.fault:
            report.unreadable[file.path] = file.fault
            continue
        before = gallery.records.by_path.get(file.path)
        image = IndexedImage(file.path, file.digest, embeddings[file.digest], metadata_of(file.path, before, metadata))
        if before is not None and before.id == image.id:
            counts["unchanged"] += 1
        else:
            counts["added" if before is None else "updated"] += 1
            changed.append(image)
    if changed:
        gallery.put(changed)
    report.count(counts)


def metadata_of(path: str, before: IndexedImage | None, metadata: Metadata | None) -> dict[str, Any]:
    """What the table says of an image; without a table, what was known of it."""
    if metadata is not None:
        return dict(metadata.get(path, {}))
    return dict(before.metadata) if before is not None else {}
