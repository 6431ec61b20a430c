"""Checks that compare entries with each other and with the image files.

Every function takes entries whose wrong fields are None (`dataset.annotation_entries`) and returns
problems, which forbid the use of a data set, or warnings, which do not.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from dataset.annotation_entries import Problem, RawEntry
from dataset.caption_checks import odd_captions
from dataset.image_files import missing_images, normal_path, read_images

THOUSANDS = re.compile(r"[0-9]{1,3}([,'][0-9]{3})+")
DECIMAL = re.compile(r"[0-9]+([.,][0-9]+|([.,][0-9]+)?e\+?[0-9]{1,2})")  # 17.0, 1e5; not 17, which needs no other form
SHORTENED = re.compile(r"[0-9]([.,][0-9]+)?E\+[0-9]{2}")  # 1.23457E+11, for a number of twelve digits
MONTH = "(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
DATE = re.compile(f"[0-9]{{1,2}}-{MONTH}|{MONTH}-[0-9]{{2}}")  # for 3-1


def check_entries(entries: Sequence[RawEntry]) -> list[Problem]:
    """Everything that is wrong between entries, image files aside."""
    return [
        *check_identity_types(entries),
        *check_splits_disjoint(entries),
        *check_duplicate_images(entries),
        *check_captions(entries),
    ]


def same_identity(identity: int | str) -> str:
    """The text by which an identity is compared: `17`, ` 17` and `17.0`, as table programs write it, are one person."""
    text = str(identity).strip()
    return re.sub(r"^(-?[0-9]+)[.,]0+$", r"\1", text)


def check_identity_types(entries: Sequence[RawEntry]) -> list[Problem]:
    """Identities that are one but different values, as 1 and "1", or "17" and "17.0"."""
    spellings: dict[str, dict[int | str, str]] = defaultdict(dict)
    for entry in entries:
        if entry.identity is not None:
            spellings[same_identity(entry.identity)].setdefault(entry.identity, entry.where)
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


def check_captions(entries: Sequence[RawEntry], split: str | None = None) -> list[Problem]:
    """Images without captions elsewhere than in a gallery of val or test; `split` is that of entries without one."""
    what = "has no captions, which only gallery images of val and test may lack"
    return [
        Problem("no captions", entry.where, what)
        for entry in entries
        if entry.uncaptioned and (entry.split or split) not in ("val", "test")
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
    return [
        *_similar_paths(entries),
        *odd_identities(entries),
        *_repeated_captions(entries),
        *odd_captions(entries),
    ]


def odd_identities(entries: Sequence[RawEntry]) -> list[Problem]:
    """Identities that resemble each other, and those that are no longer what somebody wrote into a table."""
    first: dict[str, tuple[str, str]] = {}  # by the text that is compared: as it is written, and where
    for entry in entries:
        if entry.identity is not None:
            first.setdefault(same_identity(entry.identity), (str(entry.identity).strip(), entry.where))
    return [*_similar_identities(first.values()), *_changed_identities(first.values())]


def _similar_identities(found: Iterable[tuple[str, str]]) -> list[Problem]:
    """Identities that `_folded` cannot tell apart: often one person."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for spelling, where in found:
        groups[_folded(spelling)].append((spelling, where))
    return [
        Problem(
            "similar identities",
            "",
            " and ".join(f"{spelling!r} in {where}" for spelling, where in alike)
            + " are different people; if they are one, write the identity one way",
        )
        for alike in groups.values()
        if len(alike) > 1
    ]


def _folded(identity: str) -> str:
    """An identity without what people and programs write differently for one person.

    That is case, the form of characters, those that cannot be seen, which of space, _ and - is between words,
    separators of thousands, the way to write a number, and leading zeros.
    """
    text = unicodedata.normalize("NFKC", identity).casefold()
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    text = re.sub(r"[\s_-]+", "-", text.strip())
    if THOUSANDS.fullmatch(text):
        text = re.sub("[,']", "", text)
    if DECIMAL.fullmatch(text) and len(text) < 25:  # exact with the digits that are kept
        text = format(Decimal(text.replace(",", ".")).normalize(), "f")
    return text.lstrip("0")


def _changed_identities(found: Iterable[tuple[str, str]]) -> list[Problem]:
    """Identities that a table program has shortened, or made a date of."""
    return [
        Problem(
            "identity changed by a table program",
            where,
            f"{spelling!r} {'has lost digits' if SHORTENED.fullmatch(spelling) else 'is a date'}, several people may "
            "have become one; give the column of identities the type text before they are entered",
        )
        for spelling, where in found
        if SHORTENED.fullmatch(spelling) or DATE.fullmatch(spelling)
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
