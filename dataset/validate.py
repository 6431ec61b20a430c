"""Checks that compare records with each other and with the image files.

Every function takes records whose wrong fields are None (`dataset.raw`) and returns
problems, which forbid the use of a data set, or warnings, which do not.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence

from dataset.image_files import missing_images, normalise, read_images
from dataset.raw import Problem, Record


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
        earlier = first.setdefault(normalise(record.image), record)
        if earlier is not record:
            problems.append(
                Problem("duplicate image", record.where, f"the image is already listed in {earlier.where}")
            )
    return problems


def warn_records(records: Sequence[Record]) -> list[Problem]:
    """What is odd in records but may be meant."""
    return [*_similar_paths(records), *_repeated_captions(records)]


def _similar_paths(records: Sequence[Record]) -> list[Problem]:
    """Paths that differ in upper and lower case only: one file on some file systems."""
    first: dict[str, Record] = {}
    warnings = []
    for record in records:
        if record.image is None:
            continue
        path = normalise(record.image)
        earlier = first.setdefault(path.casefold(), record)
        if normalise(earlier.image or "") != path:
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


def check_image_files(
    records: Sequence[Record], root: str | os.PathLike, full: bool, workers: int | None = None
) -> tuple[list[Problem], list[Problem]]:
    """(problems, warnings) of the image files below `root`, each file read once.

    `full` decodes all pixels and compares contents; see `dataset.image_files.image_fault`.
    """
    by_image: dict[str, Record] = {}
    for record in records:
        if record.image is not None:
            by_image.setdefault(normalise(record.image), record)
    missing = missing_images(by_image, root)
    problems = [
        Problem("missing image", by_image[image].where, f"{os.path.join(root, image)}: {reason}")
        for image, reason in missing.items()
    ]
    present = [image for image in by_image if image not in missing]
    contents: dict[bytes, list[Record]] = defaultdict(list)
    for image, (fault, digest) in zip(present, read_images(present, root, full, workers), strict=True):
        if fault:
            path = os.path.join(root, image)
            problems.append(Problem("unreadable image", by_image[image].where, f"{path} {fault}"))
        elif digest:
            contents[digest].append(by_image[image])
    return problems, _shared_pictures(contents)


def _shared_pictures(contents: dict[bytes, list[Record]]) -> list[Problem]:
    """Files of identical content that belong to different identities."""
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
