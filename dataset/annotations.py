"""What training and evaluation read: a list of images with their captions."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataset.annotation_checks import (
    check_captions,
    check_duplicate_images,
    check_identity_types,
    odd_identities,
    same_identity,
)
from dataset.annotation_entries import SPLITS, Problem, RawEntry
from dataset.annotation_formats import READERS
from dataset.captions import CaptionReading, plain_text
from dataset.image_files import image_sizes, missing_images, normal_path
from utils.errors import UserError, did_you_mean
from utils.paths import not_a_folder
from utils.text import agreeing, counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One image with its captions (none: it is in a gallery alone); `image` is relative to the image root."""

    image: str
    identity: int | str
    captions: tuple[str, ...]


WITHOUT_SPLIT = {
    "val": "prepare the data set with --val_identities N, which holds out N training identities, or let training "
    "choose its best epoch on the test split: model_selection=test",
    "test": "train without it, test_file=null test_image_root=null; final results are then those of the val split",
}
"""What to do about a data set that has no such split."""


def load_annotations(path: str | os.PathLike, split: str | None = None, may_be_empty: bool = False) -> list[Entry]:
    """The entries of a JSON file (processed form) or a CSV file, in file order.

    A JSON file is one split and is used whole, whatever split its entries carry, so that
    a published `train.json` may serve as validation file. A CSV file with a `split`
    column gives the rows of `split`, or all rows when `split` is None; one without the
    column gives all rows. Identities of a CSV file are strings.

    Entries of val and test may have no captions: images that are in the gallery alone.

    Raises UserError naming the file and the entry when it is missing or holds anything
    invalid, when one image has two identities, or when nothing is left (unless it may be empty).
    """
    path = Path(path)
    if split is not None and split not in SPLITS:
        raise UserError(f"split '{split}' is not known{did_you_mean(split, SPLITS)}; use {', '.join(SPLITS)}")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise UserError(f"annotation file {path} must end in .json, .csv or .tsv")
    raw, problems = READERS[suffix](path, False)
    problems += check_identity_types(raw) + _conflicting_identities(raw) + check_captions(raw, split)
    if problems:
        raise UserError(f"annotation file {path}, {problems[0]}{_and_more(len(problems) - 1)}")
    # odd identities of a JSON file were reported when it was prepared, if they are not meant
    identities = odd_identities(raw) if suffix != ".json" else []
    for odd in (check_duplicate_images(raw), identities):
        if odd:
            logger.warning("%s: %s%s", path, odd[0], _and_more(len(odd) - 1))
    selected = [entry for entry in raw if split is None or entry.split in (split, None)]
    if not selected and not may_be_empty:
        raise _nothing_left(path, raw, split)
    return [entry_of(entry) for entry in selected]


def entry_of(entry: RawEntry) -> Entry:
    """The entry without what preparation alone needs. Raises ValueError when its image or identity is None."""
    if entry.image is None or entry.identity is None:
        raise ValueError(f"{entry.where} has no image or no identity")
    return Entry(entry.image, entry.identity, entry.captions)


def _nothing_left(path: Path, entries: Sequence[RawEntry], split: str | None) -> UserError:
    """The error that a file has no entries, or none of `split`."""
    advice = f", or {WITHOUT_SPLIT[split]}" if split in WITHOUT_SPLIT else ""
    if not entries:
        return UserError(f"annotation file {path} holds no entries; name another file{advice}")
    present = ", ".join(sorted({entry.split for entry in entries if entry.split}))
    return UserError(f"annotation file {path} has no rows of split '{split}', only of {present}; name another{advice}")


def _conflicting_identities(entries: Sequence[RawEntry]) -> list[Problem]:
    """Images that are listed under two identities."""
    first: dict[str, RawEntry] = {}
    problems = []
    for entry in entries:
        if entry.image is None or entry.identity is None:
            continue
        earlier = first.setdefault(normal_path(entry.image), entry)
        if earlier.identity != entry.identity:
            what = f"identity {entry.identity!r}, but {earlier.identity!r} in {earlier.where}"
            problems.append(Problem("conflicting identities", entry.where, what))
    return problems


def _and_more(count: int) -> str:
    if count <= 0:
        return ""
    return f" (and {count} more problem{'s' if count > 1 else ''})"


def summarise(entries: Sequence[Entry]) -> dict[str, int | float]:
    """Counts of identities, images and captions, captions per image and words per caption (means)."""
    captions = [caption for entry in entries for caption in entry.captions]
    words = sum(len(caption.split()) for caption in captions)
    return {
        "identities": len({entry.identity for entry in entries}),
        "images": len(entries),
        "captions": len(captions),
        "captions_per_image": len(captions) / len(entries) if entries else 0.0,
        "words_per_caption": words / len(captions) if captions else 0.0,
    }


def fingerprint(entries: Sequence[Entry], image_root: str | os.PathLike) -> str:
    """SHA-256, in hexadecimal digits, of the entries in their order and the sizes of their image files.

    Equal data give equal fingerprints, wherever their folder is. Contents of images are not read.
    """
    sizes = image_sizes([entry.image for entry in entries], image_root)
    found = hashlib.sha256()
    for entry, size in zip(entries, sizes, strict=True):
        line = json.dumps([entry.image, entry.identity, entry.captions, size])  # 1 and "1" stay apart
        found.update(line.encode() + b"\n")
    return found.hexdigest()


def check_image_root(image_root: str | os.PathLike) -> None:
    """Raise UserError unless it is a folder."""
    if not Path(image_root).is_dir():
        raise UserError(f"image folder {image_root} {not_a_folder(image_root)}")


def check_images(entries: Sequence[Entry], image_root: str | os.PathLike) -> None:
    """Raise one UserError with the count and the first few of the images that are not files."""
    check_image_root(image_root)
    missing = missing_images((entry.image for entry in entries), image_root)
    if missing:
        some = ", ".join(f"{image} ({reason})" for image, reason in list(missing.items())[:3])
        raise UserError(
            f"{len(missing)} of {counted(len(entries), 'image')} {agreeing(len(missing), 'is', 'are')} missing in"
            f" {image_root}: {some}{', ...' if len(missing) > 3 else ''}"
        )


def read_captions(entries: Iterable[Entry], reading: CaptionReading) -> list[Entry]:
    """Entries whose captions are read as people type them (`plain_text`), or left as published data have them."""
    if reading == "published":
        return list(entries)
    return [replace(entry, captions=tuple(map(plain_text, entry.captions))) for entry in entries]


def check_disjoint(
    train: Sequence[Entry], other: Sequence[Entry], names: tuple[str, str] = ("train", "test")
) -> list[str]:
    """Warnings when two files share identities or images; `names` are those of the two files.

    The integer 17 of a benchmark and the string "17" of one's own CSV file need not be one
    person and are not compared; the strings "17" and "17.0" are one.
    """
    identities = _compared_identities(train) & _compared_identities(other)
    images = {normal_path(entry.image) for entry in train} & {normal_path(entry.image) for entry in other}
    return _shared("identities", identities, names) + _shared("images", images, names)


def _compared_identities(entries: Sequence[Entry]) -> set[int | str]:
    return {same_identity(entry.identity) if isinstance(entry.identity, str) else entry.identity for entry in entries}


def _shared(what: str, shared: set, names: tuple[str, str]) -> list[str]:
    """A warning with the count and the first three, or none."""
    if not shared:
        return []
    some = ", ".join(map(str, sorted(shared, key=lambda value: (str(type(value)), value))[:3]))
    dots = ", ..." if len(shared) > 3 else ""
    return [f"{len(shared)} of the {what} of {names[1]} also stand in {names[0]} ({some}{dots})"]
