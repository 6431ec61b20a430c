"""Checks that compare records with each other and with the image files.

Every function takes records whose wrong fields are None (`dataset.annotation_entries`) and returns
problems, which forbid the use of a data set, or warnings, which do not.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dataset.annotation_entries import Problem, Record
from dataset.image_files import missing_images, normal_path, read_images


def check_records(records: Sequence[Record]) -> list[Problem]:
    """Everything that is wrong between records, image files aside."""
    return [
        *check_identity_types(records),
        *check_splits_disjoint(records),
        *check_duplicate_images(records),
    ]


def check_identity_types(records: Sequence[Record]) -> list[Problem]:
    """Identities that look alike but are different values, as 1 and "1"."""
    spellings: dict[str, dict[int | str, str]] = defaultdict(dict)
    for record in records:
        if record.identity is not None:
            spellings[str(record.identity).strip()].setdefault(record.identity, record.where)
    return [
        Problem(
            "ambiguous identity",
            "",
            "identity is written "
            + " and ".join(f"{value!r} in {where}" for value, where in values.items())
            + "; write it one way",
        )
        for values in spellings.values()
        if len(values) > 1
    ]


def check_splits_disjoint(records: Sequence[Record]) -> list[Problem]:
    """Identities that stand in more than one split."""
    places: dict[int | str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.identity is not None and record.split is not None:
            places[record.identity][record.split].append(record.where)
    return [
        Problem(
            "identity in several splits",
            f"identity {identity!r}",
            ", ".join(f"{len(where)} in {split} (first: {where[0]})" for split, where in splits.items()),
        )
        for identity, splits in places.items()
        if len(splits) > 1
    ]


def check_duplicate_images(records: Sequence[Record]) -> list[Problem]:
    """Images listed again, under the same path or another spelling of it (`./a.jpg`)."""
    first: dict[str, Record] = {}
    problems = []
    for record in records:
        if record.image is None:
            continue
        earlier = first.setdefault(normal_path(record.image), record)
        if earlier is not record:
            problems.append(Problem("duplicate image", record.where, f"the image is already listed in {earlier.where}"))
    return problems


def warn_records(records: Sequence[Record]) -> list[Problem]:
    """What is odd in records but may be meant."""
    return [*_similar_paths(records), *similar_identities(records), *_repeated_captions(records)]


def similar_identities(records: Sequence[Record]) -> list[Problem]:
    """Identities that differ only in case, leading zeros or the form of their characters: often one person."""
    spellings: dict[str, dict[str, str]] = defaultdict(dict)
    for record in records:
        if record.identity is not None:
            spelling = str(record.identity).strip()
            folded = unicodedata.normalize("NFKC", spelling).casefold().lstrip("0")
            spellings[folded].setdefault(spelling, record.where)
    return [
        Problem(
            "similar identities",
            "",
            " and ".join(f"{spelling!r} in {where}" for spelling, where in alike.items())
            + " are different people; if they are one, write the identity one way",
        )
        for alike in spellings.values()
        if len(alike) > 1
    ]


def _similar_paths(records: Sequence[Record]) -> list[Problem]:
    """Paths that differ in upper and lower case only: one file on some file systems."""
    first: dict[str, Record] = {}
    warnings = []
    for record in records:
        if record.image is None:
            continue
        path = normal_path(record.image)
        earlier = first.setdefault(path.casefold(), record)
        if normal_path(earlier.image or "") != path:
            what = f"the image differs only in upper and lower case from {earlier.where}"
            warnings.append(Problem("similar image path", record.where, what))
    return warnings


def _repeated_captions(records: Sequence[Record]) -> list[Problem]:
    return [
        Problem("repeated caption", record.where, f"the same caption stands {count} times: {caption[:60]!r}")
        for record in records
        if len(set(record.captions)) < len(record.captions)
        for caption, count in Counter(record.captions).items()
        if count > 1
    ]


@dataclass(frozen=True)
class ImageFindings:
    """What is wrong with image files, what is odd, and the digests of those that are fine."""

    problems: list[Problem]
    warnings: list[Problem]
    digests: dict[str, str]  # by normalised image name


def check_image_files(
    records: Sequence[Record], root: str | os.PathLike, full: bool, workers: int | None = None
) -> ImageFindings:
    """Everything about the image files below `root`, each file read once.

    `full` decodes all pixels; see `dataset.decoding.image_fault`.
    """
    by_image: dict[str, Record] = {}
    for record in records:
        if record.image is not None:
            by_image.setdefault(normal_path(record.image), record)
    missing = missing_images(by_image, root)
    problems = [
        Problem("missing image", by_image[image].where, f"{os.path.join(root, image)}: {reason}")
        for image, reason in missing.items()
    ]
    present = [image for image in by_image if image not in missing]
    digests: dict[str, str] = {}
    for image, (fault, digest) in zip(present, read_images(present, root, full, workers), strict=True):
        if digest is None:
            path = os.path.join(root, image)
            problems.append(Problem("unreadable image", by_image[image].where, f"{path} {fault}"))
        else:
            digests[image] = digest
    return ImageFindings(problems, _shared_pictures(by_image, digests), digests)


def _shared_pictures(by_image: dict[str, Record], digests: dict[str, str]) -> list[Problem]:
    """Files of identical content that belong to different identities."""
    contents: dict[str, list[Record]] = defaultdict(list)
    for image, digest in digests.items():
        contents[digest].append(by_image[image])
    return [
        Problem(
            "same picture, different identities",
            "",
            f"{len(same)} files, "
            + "; ".join(f"{record.where} is identity {record.identity!r}" for record in _one_each(same)[:3]),
        )
        for same in contents.values()
        if len(_one_each(same)) > 1
    ]


def _one_each(records: Sequence[Record]) -> list[Record]:
    """The first record of each identity."""
    first = {record.identity: record for record in reversed(records) if record.identity is not None}
    return list(first.values())[::-1]
