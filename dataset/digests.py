"""Digests of image files, so that a file that changed since the data set was prepared is noticed.

A flipped bit within the coded pixels of a JPEG gives another picture and no error. Preparation
writes image_digests.json beside the annotations it makes; where that file is, training checks
every image against it. Deleting it turns the check off.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import read_json

FILE = "image_digests.json"
ALGORITHM = "blake2b-128"
CHANGED = "changed since it was prepared"


def blake2_of(content: bytes) -> str:
    """BLAKE2b of 128 bits, in hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_file(digests: Mapping[str, str]) -> dict[str, Any]:
    """The content of image_digests.json: digests by image name, relative to the image folder."""
    return {"algorithm": ALGORITHM, "digests": dict(digests)}


def read_digests(annotations: str | os.PathLike) -> dict[str, str]:
    """Image name (normalised) -> digest, from the file beside an annotation file; empty when there is none.

    Raises UserError when that file is damaged.
    """
    path = Path(annotations).parent / FILE
    if not path.exists():
        return {}
    content = read_json(path, "digest file")
    known = isinstance(content, dict) and content.get("algorithm") == ALGORITHM
    digests = content.get("digests") if known else None
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise UserError(
            f"digest file {path} holds no {ALGORITHM} digests of images; prepare the data set again, or delete the"
            " file to go without"
        )
    return digests
