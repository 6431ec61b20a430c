"""Brings a gallery in line with its folder of images: adds what is new, updates what changed, forgets what is gone.

An image is known by its content: what is renamed or copied is not encoded again, and what changed is, whatever its
date says. Each batch is kept before it is counted, so that a killed process loses the one in flight at most.
"""

import csv
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from dataset.decoding import Unusable, read_content
from dataset.digests import digest_of
from search.encoder import Encoder
from search.gallery import Gallery, check_columns
from search.records import Record
from utils.errors import UserError
from utils.processes.parallel import available_cores

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
BATCH = 64
READ_AHEAD = 4  # batches
MOST_FILES = 200  # of records, until they are written as one
logger = logging.getLogger(__name__)


@dataclass
class Report:
    """What became of the images; unreadable: path -> why."""

    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        unreadable = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        kept = f"{self.removed} forgotten, {self.unchanged} unchanged"
        return f"{self.added} added, {self.updated} updated, {kept}{unreadable}"


def images_below(folder: Path) -> list[str]:
    """Paths below `folder`, with /, of all image files, sorted; links to folders are not followed.

    Raises UserError when it is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of images")
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(place, name).relative_to(folder).as_posix()
            for name in files
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return sorted(found)


def read_metadata(path: Path | None) -> dict[str, dict[str, Any]]:
    """Metadata by image from a CSV file whose first column, `image`, holds paths below the folder.

    A column of numbers alone is one of numbers; an empty cell says nothing. Raises UserError naming file and line.
    """
    if path is None:
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"metadata {path} cannot be read: {error}") from None
    if not rows or not rows[0] or rows[0][0] != "image":
        raise UserError(f"metadata {path}: the first column must be called `image`")
    names, seen = rows[0][1:], {}
    check_columns(names, f"metadata {path}")
    for number, row in enumerate(rows, 1):
        if row and len(row) != len(rows[0]):
            raise UserError(f"metadata {path}, line {number}: {len(row)} cells, not {len(rows[0])}")
        if row and seen.setdefault(row[0], number) != number:
            raise UserError(f"metadata {path}, line {number}: {row[0]} is in line {seen[row[0]]} already")
    table = [row for row in rows[1:] if row]
    if not table:
        raise UserError(f"metadata {path} has a header and no rows; leave out --metadata to keep what is known")
    columns = {name: typed([row[place] for row in table]) for place, name in enumerate(names, 1)}
    return {
        row[0]: {name: values[place] for name, values in columns.items() if values[place] is not None}
        for place, row in enumerate(table)
    }


def typed(cells: Sequence[str]) -> list[Any]:
    """A column's values: whole numbers of 64 bits, numbers, or text, the same kind for all; None where empty.

    Numbers with leading zeros are names, and stay text.
    """
    if not any(re.match(r"\s*[+-]?0\d", cell) for cell in cells):
        for kind in (int, float):
            try:
                values = [kind(cell) if cell.strip() else None for cell in cells]
            except ValueError:
                continue
            if all(value is None or abs(value) < (2**63 if kind is int else float("inf")) for value in values):
                return values
    return [cell if cell.strip() else None for cell in cells]


@dataclass(frozen=True)
class Found:
    """An image file as it is now: its content's digest, and what the model reads, unless that embedding is known."""

    path: str
    digest: str = ""
    image: Tensor | None = None
    fault: str = ""


def look(gallery: Gallery, encoder: Encoder, known: Mapping[str, np.ndarray], path: str) -> Found:
    """Read one image file; what is `known` by digest is not decoded."""
    try:
        content = read_content(gallery.images / path)
        digest = digest_of(content)
        return Found(path, digest, None if digest in known else encoder.read(content))
    except Unusable as fault:
        return Found(path, fault=str(fault))


def in_batches(found: Iterable[Found], size: int) -> Iterator[list[Found]]:
    batch: list[Found] = []
    for one in found:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def read_ahead(function, paths: Sequence[str]) -> Iterator[Found]:
    """function(path) for all paths in order, by threads that are a few batches ahead."""
    with ThreadPoolExecutor(available_cores()) as pool:
        waiting = []
        for path in paths:
            waiting.append(pool.submit(function, path))
            if len(waiting) > READ_AHEAD * BATCH:
                yield waiting.pop(0).result()
        for one in waiting:
            yield one.result()


def index(gallery: Gallery, encoder: Encoder, metadata: Mapping[str, Mapping[str, Any]] | None = None) -> Report:
    """Bring `gallery` in line with its folder. metadata: by path; None = what is known of images stays.

    Raises UserError when metadata are of no image of the folder, or it holds none although the gallery does.
    """
    report, paths = Report(), images_below(gallery.images)
    if not paths and len(gallery.records):
        raise UserError(
            f"there is no image below {gallery.images} any more; nothing was changed: is it not mounted?"
            " Images of a gallery are erased by python -m search forget"
        )
    check_metadata(metadata, paths)
    paths, report.unreadable = (
        [path for path in paths if is_text(path)],
        {
            path.encode("utf-8", "backslashreplace").decode(): "has a name that is not UTF-8; rename it"
            for path in paths
            if not is_text(path)
        },
    )
    known = {record.digest: record.embedding for record in gallery.records}
    with tqdm(total=len(paths), desc="images", unit="image", disable=None) as bar:
        found = read_ahead(lambda path: look(gallery, encoder, known, path), paths)
        for batch in in_batches(found, BATCH):
            take(gallery, encoder, batch, known, metadata, report)
            bar.update(len(batch))
    known_paths = gallery.records.by_path.keys()
    gone = sorted((known_paths - set(paths)) | (known_paths & report.unreadable.keys()))
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
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_metadata(metadata: Mapping[str, Mapping[str, Any]] | None, paths: Sequence[str]) -> None:
    """Tell of rows of images that are not there. Raises UserError when that is so of all of them."""
    if metadata is None:
        return
    there = set(paths)
    unknown = [path for path in metadata if path not in there]
    if len(unknown) == len(metadata):
        example = f", such as {unknown[0]} (an image is called {paths[0]})" if unknown and paths else ""
        raise UserError(f"the metadata are of no image below the folder{example}; nothing was changed")
    if unknown:
        logger.warning("%d rows of the metadata are of images that are not there, such as %s", len(unknown), unknown[0])


def take(
    gallery: Gallery,
    encoder: Encoder,
    batch: Sequence[Found],
    known: dict[str, np.ndarray],
    metadata: Mapping[str, Mapping[str, Any]] | None,
    report: Report,
) -> None:
    """Keep what is new or changed in a batch, then count it."""
    fresh = {one.digest: one.image for one in batch if one.image is not None}
    if fresh:
        _, embeddings = encoder.encode_images(list(fresh.values()))
        known |= dict(zip(fresh, embeddings, strict=True))
    changed, counts = [], {"added": 0, "updated": 0, "unchanged": 0}
    for one in batch:
        if one.fault:
            report.unreadable[one.path] = one.fault
            continue
        before = gallery.records.by_path.get(one.path)
        more = dict(metadata.get(one.path, {})) if metadata is not None else dict(before.metadata) if before else {}
        record = Record(one.path, one.digest, known[one.digest], more)
        if before is not None and before.id == record.id:
            counts["unchanged"] += 1
            continue
        changed.append(record)
        counts["updated" if before else "added"] += 1
    if changed:
        gallery.put(changed)
    for name, count in counts.items():
        setattr(report, name, getattr(report, name) + count)
