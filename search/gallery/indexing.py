"""Brings a gallery in line with its images: adds what is new, updates what changed, forgets what is gone.

An image is known by its content: what is renamed or copied is not encoded again, and what changed is, whatever its
date says. Each batch is on the disk before the next one, so that a killed process loses the one in flight at most.

Only what is known to be gone is forgotten: a folder that cannot be listed, or that lost all its images, stops it
before anything is changed, and an image that cannot be read now keeps its record.
"""

import itertools
import logging
import posixpath
import shlex
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from dataset.decoding import Unreadable, Unusable, load_decoders
from dataset.digests import blake2_of
from dataset.image_folders import FolderOfImages, match_forms
from search.encoder import Encoder
from search.files.crops import crop_all, file_and_box
from search.files.metadata import Metadata, check_images, check_sizes
from search.files.records import IndexedImage, make_content_key
from search.frames.boxes import People, read_people
from search.frames.detector import NamedDetector, find_people
from search.gallery.gallery import Gallery
from search.gallery.selection import images_named
from utils.errors import UserError
from utils.paths import is_text, printable

BATCH = 64
READ_AHEAD = 4  # batches
MAX_FILES = 200  # of records, until they are written as one
NOT_TEXT = "has a name that is not UTF-8; rename it"
SHOWN = 3  # lost folders
KEPT = "; what the gallery knows of it is kept"

logger = logging.getLogger(__name__)


@dataclass
class Report:
    """What indexing did to a gallery: how many images were added, updated, removed, or left as they were.

    unreadable: path -> why; kept: those of them that stay in the gallery; found: what is below the folder.
    """

    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    found: FolderOfImages = field(default_factory=FolderOfImages)

    def count(self, counts: Mapping[str, int]) -> None:
        """Add numbers to `added`, `updated` or `unchanged`."""
        for name, number in counts.items():
            setattr(self, name, getattr(self, name) + number)

    def __str__(self) -> str:
        unreadable = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        kept = f"{self.removed} forgotten, {self.unchanged} unchanged"
        return f"{self.added} added, {self.updated} updated, {kept}{unreadable}"


@dataclass(frozen=True)
class ImageFile:
    """An image as it is now: the digest of its file, and what the model reads, unless that embedding is known.

    fault: why it cannot be used; unread: because the system did not hand it out, so that it may be as it was.
    """

    path: str
    digest: str = ""
    image: Tensor | None = None
    fault: str = ""
    unread: bool = False

    @property
    def content_key(self) -> str:
        """As `IndexedImage.content_key`."""
        return make_content_key(self.path, self.digest)


@dataclass(frozen=True)
class Source:
    """A file, and the images of the gallery that it gives: itself, or people who are cut out of it."""

    file: str
    paths: Sequence[str]


def read_source(gallery: Gallery, encoder: Encoder, known: Mapping[str, np.ndarray], source: Source) -> list[ImageFile]:
    """Read one file; what is `known` by content is not decoded."""
    try:
        content = gallery.image_source.read(source.file)
        digest = blake2_of(content)
        new = [path for path in source.paths if make_content_key(path, digest) not in known]
        images = images_in(content, new, encoder)
    except Unusable as fault:
        return [ImageFile(path, fault=str(fault), unread=isinstance(fault, Unreadable)) for path in source.paths]
    return [
        ImageFile(path, fault=str(image))
        if isinstance(image := images.get(path), Unusable)
        else ImageFile(path, digest, image)
        for path in source.paths
    ]


def images_in(content: bytes, paths: Sequence[str], encoder: Encoder) -> dict[str, Tensor | Unusable]:
    """What the model reads of images of one file, or why one of several is no image. Raises Unusable for all."""
    boxes = [box for path in paths if (box := file_and_box(path)[1]) is not None]
    if not boxes:
        return {path: encoder.decode_image(content) for path in paths}
    return {
        path: one if isinstance(one, Unusable) else encoder.decode_image(one)
        for path, one in zip(paths, crop_all(content, boxes), strict=True)
    }


def in_batches(files: Iterable[ImageFile], size: int) -> Iterator[list[ImageFile]]:
    """Lists of `size` files; the last one may be shorter."""
    rest = iter(files)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def read_ahead(
    read: Callable[[Source], list[ImageFile]], sources: Sequence[Source], threads: int
) -> Iterator[ImageFile]:
    """The images of all sources in order, read by threads that are a few batches ahead."""
    load_decoders()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[int, Future[list[ImageFile]]]] = deque()
        ahead = 0
        for source in sources:
            waiting.append((len(source.paths), pool.submit(read, source)))
            ahead += len(source.paths)
            while ahead > READ_AHEAD * BATCH:
                images, future = waiting.popleft()
                ahead -= images
                yield from future.result()
        while waiting:
            yield from waiting.popleft()[1].result()


def index(
    gallery: Gallery,
    encoder: Encoder,
    metadata: Metadata | None = None,
    gone: Sequence[str] = (),
    boxes: Sequence[Path] = (),
    detector: NamedDetector | None = None,
) -> Report:
    """Bring `gallery` in line with its folder. metadata: by path; None = what is known of images stays.

    gone: folders that may have lost all their images, named as those of `selection.select_images`. boxes: files of
    people in frames (`search.frames.boxes`), who are what is indexed then, with what these files and the metadata of
    their frames say of them; or a detector finds them.

    Raises UserError, before anything is changed, when a folder cannot be listed, when a folder that the gallery holds
    images of has lost them all, when metadata or boxes are of no image of the folder, and when the metadata of
    one are too long.
    """
    found = gallery.image_source.walk()
    require_not_lost(gallery, found, gone)
    require_same_form(gallery, bool(boxes or detector))
    if metadata is not None:
        forms = match_forms(metadata, found.images)
        metadata = {forms.get(path, path): values for path, values in metadata.items()}
    check_images(metadata, found.images)
    images = [path for path in found.images if is_text(path)]
    sources = [Source(path, [path]) for path in images]
    if boxes or detector:
        people = people_in(gallery, images, boxes, detector)
        sources, metadata = people_as_sources(gallery, people, images, metadata or {})
    check_sizes(metadata or {})
    report = Report(unreadable={printable(path): NOT_TEXT for path in found.images if not is_text(path)}, found=found)
    add_images(gallery, encoder, sources, metadata, report)
    drop_gone(gallery, sources, report)
    gallery.finish()
    return report


def people_in(gallery: Gallery, images: Sequence[str], boxes: Sequence[Path], detector: NamedDetector | None) -> People:
    """Who is in these frames, as a detector finds them or files of boxes say. Raises UserError."""
    if detector:
        return find_people(gallery.image_source, images, detector, gallery.address.folder)
    return read_people(boxes, images, gallery.image_source)


def drop_gone(gallery: Gallery, sources: Sequence[Source], report: Report) -> None:
    """Drop the images that are in no source any more or cannot be used, count them, and erase what is left of them."""
    there = {path for source in sources for path in source.paths}
    known = gallery.records.by_path.keys()
    faulty = report.unreadable.keys() - report.kept
    dropped = sorted((known - there) | (known & faulty))
    if dropped:
        gallery.drop(dropped)
    report.removed = len(dropped)
    if report.removed or report.updated:
        gallery.compact()
    elif len(gallery.records.files) > MAX_FILES:
        gallery.records.rewrite()


def require_same_form(gallery: Gallery, with_boxes: bool) -> None:
    """Raises UserError when a gallery of people in frames would become one of whole images, or the other way."""
    in_frames = [path for path in gallery.records.by_path if file_and_box(path)[1] is not None]
    if in_frames and not with_boxes:
        raise UserError("this gallery is of people in frames; add --boxes FILE or --detector, which say who is in them")
    if with_boxes and not in_frames and len(gallery.records):
        raise UserError("this gallery is of whole images; make a new one for people in frames")


def people_as_sources(
    gallery: Gallery, people: People, images: Sequence[str], of_frames: Metadata
) -> tuple[list[Source], dict[str, dict[str, Any]]]:
    """Frames with their people, whose metadata come with them, beside those of their frames; whole images that were
    uploaded stay as they are.

    Raises UserError when no frame is there; warns of those that are not.
    """
    forms = match_forms(people, images)
    people = {forms.get(frame, frame): found for frame, found in people.items()}
    check_images(people, images, "boxes", "frame")
    uploaded = [path for path in images if path in gallery.records.by_path]
    sources = [Source(frame, sorted(people[frame])) for frame in images if frame in people]
    metadata = {
        name: {**of_frames.get(frame, {}), **values}
        for frame, found in people.items()
        for name, values in found.items()
    }
    metadata |= {path: dict(gallery.records.by_path[path].metadata) for path in uploaded}
    return [*sources, *(Source(path, [path]) for path in uploaded)], metadata


def require_not_lost(gallery: Gallery, found: FolderOfImages, gone: Sequence[str]) -> None:
    """Raises UserError when a folder holds no image any more, unless it is in one that is known to be `gone`."""
    expected = gallery.records.by_path.keys() - images_gone(gallery, gone)
    left_out = set(found.folders_left_out)
    counts = Counter(
        folder for path in expected if left_out.isdisjoint(folders_of(path)) for folder in folders_of(path)
    )
    there = {folder for path in found.images for folder in folders_of(path)}
    if counts and not there:
        raise UserError(
            f"there is no image below {gallery.image_source} any more; nothing was changed: is it not mounted, or moved"
            " (python -m search move)? If its images are gone for good: --gone ."
        )
    lost = sorted(folder for folder in counts if folder not in there and posixpath.dirname(folder) in there)
    if lost:
        why = f" ({found.unreachable[lost[0]]})" if lost[0] in found.unreachable else ""
        others = "nor has another folder" if len(lost) == 2 else f"nor have {len(lost) - 1} other folders"
        more = f", {others}" if len(lost) > 1 else ""
        names = " ".join(shlex.quote(printable(folder)) for folder in lost) if len(lost) <= SHOWN else "."
        raise UserError(
            f"{gallery.image_source.named(lost[0])}{why} has none of the {counts[lost[0]]} images any more that the"
            f" gallery holds of it{more}; nothing was changed: is it not mounted, or renamed (python -m search move)?"
            f" If they are gone for good: --gone {names}"
        )


def images_gone(gallery: Gallery, gone: Sequence[str]) -> set[str]:
    """Images of the gallery that may be gone. A name that means none is warned of: it may have been forgotten."""
    images: set[str] = set()
    for name in gone if len(gallery.records) else ():
        try:
            images.update(images_named(gallery, name))
        except UserError as error:
            logger.warning("--gone: %s", error)
    return images


def folders_of(path: str) -> list[str]:
    """The folders that an image is in, from its own to the whole, whose name is empty: a/b/1.jpg -> a/b, a, ''."""
    folders = []
    while path:
        path = posixpath.dirname(path)
        folders.append(path)
    return folders


def add_images(
    gallery: Gallery, encoder: Encoder, sources: Sequence[Source], metadata: Metadata | None, report: Report
) -> None:
    """Read all images, encode those whose content is new, and keep what is new or changed, batch by batch."""
    known = {image.content_key: image.embedding for image in gallery.records}
    count = sum(len(source.paths) for source in sources)
    with tqdm(total=count, desc="images", unit="image", disable=None) as bar:
        files = read_ahead(
            lambda source: read_source(gallery, encoder, known, source), sources, gallery.image_source.threads
        )
        for batch in in_batches(files, BATCH):
            add_batch(gallery, batch, encode_new(encoder, batch, known), metadata, report)
            bar.update(len(batch))


def encode_new(encoder: Encoder, batch: Sequence[ImageFile], known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Embeddings by content: `known`, to which those of the batch are added."""
    new = {file.content_key: file.image for file in batch if file.image is not None}
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
        before = gallery.records.by_path.get(file.path)
        digest, embedding = file.digest, embeddings.get(file.content_key)
        if file.fault:
            report.unreadable[file.path] = file.fault
            if before is not None and file.unread:
                report.unreadable[file.path] += KEPT
                report.kept.add(file.path)
                digest, embedding = before.digest, before.embedding
        if embedding is None:
            continue
        image = IndexedImage(file.path, digest, embedding, metadata_of(file.path, before, metadata))
        if before is not None and before.id == image.id:
            counts["unchanged"] += 1
        else:
            counts["added" if before is None else "updated"] += 1
            changed.append(image)
    if changed:
        gallery.add_or_replace(changed)
    report.count(counts)


def metadata_of(path: str, before: IndexedImage | None, metadata: Metadata | None) -> dict[str, Any]:
    """What the table says of an image; without a table, what was known of it."""
    if metadata is not None:
        return dict(metadata.get(path, {}))
    return dict(before.metadata) if before is not None else {}
