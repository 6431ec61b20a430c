"""Checks that compare entries with each other and with the image files.

Every function takes entries whose wrong fields are None (`dataset.annotation_entries`) and returns
problems, which forbid the use of a data set, or warnings, which do not.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dataset.annotation_entries import Problem, RawEntry
from dataset.image_files import missing_images, normal_path, read_images


def check_entries(entries: Sequence[RawEntry]) -> list[Problem]:
    """Everything that is wrong between entries, image files aside."""
    return [
        *check_identity_types(entries),
        *check_splits_disjoint(entries),
        *check_duplicate_images(entries),
    ]


def check_identity_types(entries: Sequence[RawEntry]) -> list[Problem]:
    """Identities that look alike but are different values, as 1 and "1"."""
    spellings: dict[str, dict[int | str, str]] = defaultdict(dict)
    for entry in entries:
        if entry.identity is not None:
            spellings[str(entry.identity).strip()].setdefault(entry.identity, entry.where)
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


def check_splits_disjoint(entries: Sequence[RawEntry]) -> list[Problem]:
    """Identities that stand in more than one split."""
    found: dict[int | str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        if entry.identity is not None and entry.split is not None:
            found[entry.identity][entry.split].append(entry.where)
    return [
        Problem(
            "identity in several splits",
            f"identity {identity!r}",
            ", ".join(f"{len(where)} in {split} (first: {where[0]})" for split, where in splits.items()),
        )
        for identity, splits in found.items()
        if len(splits) > 1
    ]


def check_duplicate_images(entries: Sequence[RawEntry]) -> list[Problem]:
    """Images listed again, under the same path or another spelling of it (`./a.jpg`)."""
    first: dict[str, RawEntry] = {}
    problems = []
    for entry in entries:
        if entry.image is None:
            continue
        earlier = first.setdefault(normal_path(entry.image), entry)
        if earlier is not entry:
            problems.append(Problem("duplicate image", entry.where, f"the image is already listed in {earlier.where}"))
    return problems


def warn_entries(entries: Sequence[RawEntry]) -> list[Problem]:
    """What is odd in entries but may be meant."""
    return [*_similar_paths(entries), *similar_identities(entries), *_repeated_captions(entries)]


def similar_identities(entries: Sequence[RawEntry]) -> list[Problem]:
    """Identities that differ only in case, leading zeros or the form of their characters: often one person."""
    spellings: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in entries:
        if entry.identity is not None:
            spelling = str(entry.identity).strip()
            folded = unicodedata.normalize("NFKC", spelling).casefold().lstrip("0")
            spellings[folded].setdefault(spelling, entry.where)
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


def _similar_paths(entries: Sequence[RawEntry]) -> list[Problem]:
    """Paths that differ in upper and lower case only: one file on some file systems."""
    first: dict[str, RawEntry] = {}
    warnings = []
    for entry in entries:
        if entry.image is None:
            continue
        path = normal_path(entry.image)
        earlier = first.setdefault(path.casefold(), entry)
        if normal_path(earlier.image or "") != path:
            what = f"the image differs only in upper and lower case from {earlier.where}"
            warnings.append(Problem("similar image path", entry.where, what))
    return warnings


def _repeated_captions(entries: Sequence[RawEntry]) -> list[Problem]:
    return [
        Problem("repeated caption", entry.where, f"the same caption stands {count} times: {caption[:60]!r}")
        for entry in entries
        if len(set(entry.captions)) < len(entry.captions)
        for caption, count in Counter(entry.captions).items()
        if count > 1
    ]


@dataclass(frozen=True)
class ImageFindings:
    """What is wrong with image files, what is odd, and the digests of those that are fine."""

    problems: list[Problem]
    warnings: list[Problem]
    digests: dict[str, str]  # by normalised image name


def check_image_files(
    entries: Sequence[RawEntry], root: str | os.PathLike, full: bool, workers: int | None = None
) -> ImageFindings:
    """Everything about the image files below `root`, each file read once.

    `full` decodes all pixels; see `dataset.decoding.image_fault`.
    """
    by_image: dict[str, RawEntry] = {}
    for entry in entries:
        if entry.image is not None:
            by_image.setdefault(normal_path(entry.image), entry)
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


def _shared_pictures(by_image: dict[str, RawEntry], digests: dict[str, str]) -> list[Problem]:
    """Files of identical content that belong to different identities."""
    contents: dict[str, list[RawEntry]] = defaultdict(list)
    for image, digest in digests.items():
        contents[digest].append(by_image[image])
    return [
        Problem(
            "same picture, different identities",
            "",
            f"{len(same)} files, "
            + "; ".join(f"{entry.where} is identity {entry.identity!r}" for entry in _one_each(same)[:3]),
        )
        for same in contents.values()
        if len(_one_each(same)) > 1
    ]


def _one_each(entries: Sequence[RawEntry]) -> list[RawEntry]:
    """The first entry of each identity."""
    first = {entry.identity: entry for entry in reversed(entries) if entry.identity is not None}
    return list(first.values())[::-1]
