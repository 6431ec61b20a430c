"""Image files on disk: paths that are safe, files that are there, pictures that can be read."""

import hashlib
import io
import os
import posixpath
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from utils.parallel import available_cores

JPEG_FORMATS = ("JPEG", "MPO")
START_OF_SCAN = 0xDA
END_OF_IMAGE = b"\xff\xd9"


def normalise(image: str) -> str:
    """One spelling per file: `./a//b.jpg` -> `a/b.jpg`."""
    return posixpath.normpath(image)


def path_fault(image: str) -> str | None:
    """Why a path cannot name an image below the image folder, or None."""
    if not image.strip():
        return "is empty"
    if image.startswith("/") or PureWindowsPath(image).drive:
        return "is absolute; give it relative to the image folder"
    if "\\" in image:
        return "has \\ between folders; write /"
    if normalise(image).split("/")[0] == "..":
        return "leaves the image folder"
    if normalise(image) == "." or image.endswith("/"):
        return "names a folder, not a file"
    return None


def missing_images(images: Iterable[str], root: str | os.PathLike) -> dict[str, str]:
    """Image -> why it is missing below `root`, for those that are.

    Every folder is listed once, which is far faster on network disks than asking for
    40,000 files. Names must match in upper and lower case on every file system.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for image in images:
        by_folder[posixpath.dirname(normalise(image))].append(image)
    missing: dict[str, str] = {}
    for folder, members in by_folder.items():
        try:
            with os.scandir(os.path.join(root, folder)) as listing:
                names = {entry.name for entry in listing if entry.is_file()}
        except OSError as error:
            reason = "the folder does not exist" if isinstance(error, FileNotFoundError) else error.strerror
            missing.update(dict.fromkeys(members, f"{reason}"))
            continue
        absent = [image for image in members if posixpath.basename(normalise(image)) not in names]
        missing.update(_name_spellings(absent, names))
    return missing


def _name_spellings(absent: Sequence[str], names: set[str]) -> dict[str, str]:
    """Image -> reason, which names a file that differs in upper and lower case only."""
    if not absent:
        return {}
    folded = {name.casefold(): name for name in names}
    reasons = {}
    for image in absent:
        other = folded.get(posixpath.basename(normalise(image)).casefold())
        reasons[image] = f"the file is named '{other}'" if other else "no such file"
    return reasons


def read_images(
    images: Sequence[str], root: str | os.PathLike, full: bool, workers: int | None = None
) -> list[tuple[str | None, bytes | None]]:
    """(fault or None, content digest or None) of each image, read by parallel threads.

    `full` decodes every pixel and computes digests; otherwise headers, checksums and end
    markers are checked, see `image_fault`.
    """
    workers = workers or min(16, 4 * available_cores())

    def read(image: str) -> tuple[str | None, bytes | None]:
        return _read_image(Path(root, image), full)

    Image.init()  # loads all decoders now, not in several threads at once
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on metadata would tear the progress bar
        return list(tqdm(pool.map(read, images), total=len(images), desc="images", unit="image"))


def _read_image(path: Path, full: bool) -> tuple[str | None, bytes | None]:
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}", None
    fault = image_fault(content, full)
    digest = hashlib.blake2b(content, digest_size=16).digest() if full and fault is None else None
    return fault, digest


def image_fault(content: bytes, full: bool = False) -> str | None:
    """Why the bytes of a file are not a complete image, or None.

    A PNG must have right checksums to its end and a JPEG its end marker after the start
    of its scan, which coded data cannot hold; all others, a JPEG without that marker, and
    with `full` every image, are decoded.
    """
    if not content:
        return "is empty (zero bytes)"
    try:
        with Image.open(io.BytesIO(content)) as image:
            is_complete = image.format in JPEG_FORMATS and has_jpeg_end(content)
            if image.format == "PNG":
                image.verify()  # closes the image
                is_complete = True
        if full or not is_complete:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
    except UnidentifiedImageError:
        return "is not an image, or is cut off in its header"
    except Exception as error:  # broken files make decoders raise nearly any type
        return f"is damaged: {error}"
    return None


def has_jpeg_end(content: bytes) -> bool:
    """Whether an end marker follows the first scan, thumbnails in the header left out."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == START_OF_SCAN:
            return content.find(END_OF_IMAGE, position) >= 0
    return False
