"""synthetic.json, which marks a benchmark of this program, and the ceilings of its splits in it."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import read_json

MARKER, MADE_BY = "synthetic.json", "dataset.synthetic"
SEARCHED = ("val", "test")  # splits that have a ceiling
METRICS = ("r1", "r5", "r10", "mAP", "mINP")  # in per cent
COUNTS = ("captions", "images")
MAX_COUNT = 10**12

Image = tuple[str, int | str, Sequence[str]]  # name, identity, captions


def digest_of_split(images: Iterable[Image]) -> str:
    """What identifies a split: its images in their order, each with its identity and captions."""
    found = hashlib.blake2b(digest_size=16)
    for name, identity, captions in images:
        found.update(json.dumps([name, identity, list(captions)]).encode())
    return found.hexdigest()


def read_ceiling(images: Iterable[Image], folders: Iterable[Path]) -> dict[str, float | int]:
    """The ceiling that a marker file in one of `folders` has for the split of these images; empty when none has.

    images: name, identity and captions as written, in the order of the annotation file.
    """
    markers = [path for folder in dict.fromkeys(folders) if os.path.isfile(path := folder / MARKER)]  # never raises
    if not markers:
        return {}
    digest = digest_of_split(images)
    for path in markers:
        with contextlib.suppress(UserError):  # of another program, or damaged
            found = read_json(path, "marker file")
            ceilings = found.get("ceiling") if isinstance(found, dict) and found.get("made_by") == MADE_BY else None
            for ceiling in ceilings.values() if isinstance(ceilings, dict) else ():
                known = isinstance(ceiling, dict) and ceiling.get("digest") == digest
                if known and (numbers := numbers_of(ceiling)):
                    return numbers
    return {}


def numbers_of(ceiling: Mapping[str, Any]) -> dict[str, float | int]:
    """The metrics and counts of a ceiling; empty where one of them is none."""
    limits = {**dict.fromkeys(METRICS, 100), **dict.fromkeys(COUNTS, MAX_COUNT)}
    values: dict[str, Any] = {name: ceiling.get(name) for name in limits}
    sound = all(type(value) in (int, float) and 0 <= value <= limits[name] for name, value in values.items())
    return values if sound else {}
