"""Annotation entries, checked one by one.

A check adds a `Problem` to a list instead of raising, so that one pass over a file tells
everything that is wrong with it. A field that is wrong becomes None in its `Record`; the
other fields still take part in the checks that compare records.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.image_files import path_fault
from utils.errors import UserError, nearest

SPLITS = ("train", "val", "test")
IMAGE_KEYS = ("file_path", "img_path")
LARGEST_IDENTITY = 2**63 - 1


@dataclass(frozen=True)
class Problem:
    """One finding: its kind (findings are grouped by it), the place, and what is wrong there."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


@dataclass(frozen=True)
class Record:
    """One image as an annotation file describes it; None stands for a field that is wrong or absent."""

    where: str
    split: str | None
    image: str | None
    identity: int | str | None
    captions: tuple[str, ...]


Add = Callable[[str, str], None]


def read_json_records(
    path: str | os.PathLike, image_key: str = "file_path", with_split: bool = True
) -> tuple[list[Record], list[Problem]]:
    """Records and problems of a JSON list of {"split", "captions", "file_path" | "img_path", "id"}.

    `image_key` is the name to ask for when an entry has neither image key. Without
    `with_split` the split of an entry is neither required nor read.

    Raises UserError when the file is missing, not UTF-8, not JSON, or not a list.
    """
    entries, has_constants = _parse_json(path)
    records: list[Record] = []
    problems: list[Problem] = []
    for number, entry in enumerate(entries, start=1):
        where = _place(number, entry)

        def add(kind: str, what: str, where: str = where) -> None:
            problems.append(Problem(kind, where, what))

        if not isinstance(entry, dict):
            add("wrong type", f"must be an object with image, id and captions, found {json_type(entry)}")
            continue
        if has_constants and _holds_constant(entry):
            add("not a number", "holds NaN or Infinity, which JSON does not have")
        split = _split_of(entry, add) if with_split else None
        image = _image_of(entry, image_key, add)
        records.append(Record(where, split, image, _identity_of(entry, add), _captions_of(entry, add)))
    return records, problems


def read_text(path: str | os.PathLike, place_after: Callable[[str], str] | None = None) -> str:
    """The text of a UTF-8 annotation file, with or without a byte order mark.

    `place_after` names the place that follows a piece of text from the beginning of the file, for
    the message when something there is not UTF-8; without it the byte is named.

    Raises UserError when the file is missing, unreadable or not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"annotation file {path} does not exist") from None
    except UnicodeDecodeError as error:
        place = place_after(error.object[: error.start].decode()) if place_after else f"byte {error.start}"
        raise UserError(f"annotation file {path} is not UTF-8 ({place}); save it again as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"annotation file {path} cannot be read: {reason}") from None


def json_type(value: Any) -> str:
    """The JSON name of a value's type, with the value where it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {quote(value)}"
    if isinstance(value, str):
        return f"the string {quote(value)}"
    return "a list" if isinstance(value, list) else "an object"


def quote(value: Any) -> str:
    """`repr`, cut after 60 characters; control characters and lone surrogates are escaped by it."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "too long to show"
    return text if len(text) <= 60 else text[:57] + "..."


def text_fault(text: str) -> str | None:
    """Why a text cannot be stored or used as a file name, or None."""
    if "\0" in text:
        return "holds a NUL character"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is not valid text"
    return None


def identity_fault(identity: Any) -> str | None:
    """Why a value is no identity (an integer of 64 bits or a text), or None."""
    if isinstance(identity, bool) or not isinstance(identity, (int, str)):
        return f"must be an integer or a string, found {json_type(identity)}"
    if isinstance(identity, int):
        return "does not fit in 64 bits" if abs(identity) > LARGEST_IDENTITY else None
    if not identity.strip():
        return "is an empty string"
    return text_fault(identity)


def has_words(caption: str) -> bool:
    """Whether anything is left once white space and punctuation are taken away."""
    return any(character.isalnum() for character in caption)


def check_caption(caption: str, name: str, add: Add) -> bool:
    """Add a problem when a caption holds no word or no valid text; whether it is fine."""
    if fault := text_fault(caption):
        add("bad text", f"{name} {fault}")
    elif not has_words(caption):
        add("empty caption", f"{name} has no words: {quote(caption)}")
    else:
        return True
    return False


def check_split(split: str, add: Add) -> str | None:
    """The split when it is known, else a problem that names the nearest one."""
    if split in SPLITS:
        return split
    hint = nearest(split.strip().lower(), SPLITS) or f"; use {', '.join(SPLITS)}"
    add("unknown split", f"split {quote(split)} is not known{hint}")
    return None


def check_image_path(image: str, add: Add) -> str | None:
    """The path when it is relative and stays below the image folder, else a problem."""
    if fault := text_fault(image):
        add("bad text", f"the image path {quote(image)} {fault}")
    elif fault := path_fault(image):
        add("bad image path", f"the image path {quote(image)} {fault}")
    else:
        return image
    return None


def _parse_json(path: str | os.PathLike) -> tuple[list[Any], bool]:
    """The top-level list, and whether NaN or Infinity stands anywhere in the file."""
    constants: list[str] = []

    def note(name: str) -> float:
        constants.append(name)
        return float(name)

    text = read_text(path)
    if not text.strip():
        raise UserError(f"annotation file {path} is empty")
    try:
        entries = json.loads(text, parse_constant=note)
    except (ValueError, RecursionError) as error:
        raise UserError(f"annotation file {path} is not valid JSON: {error}") from None
    if not isinstance(entries, list):
        raise UserError(f"annotation file {path} must hold a list of entries, found {json_type(entries)}")
    return entries, bool(constants)


def _holds_constant(value: Any) -> bool:
    """Whether NaN or an infinity stands anywhere inside a JSON value."""
    if isinstance(value, dict):
        return any(map(_holds_constant, value.values()))
    if isinstance(value, list):
        return any(map(_holds_constant, value))
    return isinstance(value, float) and (value != value or abs(value) == float("inf"))


def _place(number: int, entry: Any) -> str:
    """`entry 7 (folder/name.jpg)`; entries are counted from 1."""
    keys = [key for key in IMAGE_KEYS if key in entry] if isinstance(entry, dict) else []
    if keys and isinstance(entry[keys[0]], str):
        return f"entry {number} ({repr(entry[keys[0]])[1:-1]})"  # repr escapes what cannot be shown
    return f"entry {number}"


def _missing(entry: dict, key: str, add: Add) -> None:
    others = set(entry) - {"split", "captions", "id", "processed_tokens", *IMAGE_KEYS}
    add("missing key", f"has no '{key}'{nearest(key, others)}")


def _split_of(entry: dict, add: Add) -> str | None:
    if "split" not in entry:
        _missing(entry, "split", add)
    elif not isinstance(entry["split"], str):
        add("wrong type", f"'split' must be a string, found {json_type(entry['split'])}")
    else:
        return check_split(entry["split"], add)
    return None


def _image_of(entry: dict, image_key: str, add: Add) -> str | None:
    keys = [key for key in IMAGE_KEYS if key in entry]
    if not keys:
        _missing(entry, image_key, add)
    elif len(keys) == 2 and entry[keys[0]] != entry[keys[1]]:
        add("wrong type", "'file_path' and 'img_path' name different images; keep one")
    elif not isinstance(entry[keys[0]], str):
        add("wrong type", f"'{keys[0]}' must be a string, found {json_type(entry[keys[0]])}")
    else:
        return check_image_path(entry[keys[0]], add)
    return None


def _identity_of(entry: dict, add: Add) -> int | str | None:
    if "id" not in entry:
        _missing(entry, "id", add)
    elif fault := identity_fault(entry["id"]):
        add("wrong type", f"'id' {fault}")
    else:
        return entry["id"]
    return None


def _captions_of(entry: dict, add: Add) -> tuple[str, ...]:
    """The captions that are fine."""
    if "captions" not in entry:
        _missing(entry, "captions", add)
        return ()
    captions = entry["captions"]
    if not isinstance(captions, list):
        add("wrong type", f"'captions' must be a list of strings, found {json_type(captions)}")
        return ()
    if not captions:
        add("no captions", "has an empty list of captions")
    fine = []
    for number, caption in enumerate(captions, start=1):
        if not isinstance(caption, str):
            add("wrong type", f"caption {number} must be a string, found {json_type(caption)}")
        elif check_caption(caption, f"caption {number}", add):
            fine.append(caption)
    return tuple(fine)
