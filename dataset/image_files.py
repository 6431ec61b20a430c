"""Image files on disk: paths that are safe, files that are there, pictures that can be read."""

import contextlib
import functools
import os
import posixpath
import re
import stat
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from dataset.decoding import Unusable, image_fault, load_decoders, read_content
from dataset.digests import blake2_of
from dataset.image_folders import composed, list_folder, names_by_form
from utils.processes.parallel import available_cores

NO_FILE, NO_FOLDER = "no such file", "the folder does not exist"
_DRIVE = re.compile("[A-Za-z]:")  # of a path as Windows writes it


def normal_path(image: str) -> str:
    """One spelling per file: `./a//b.jpg` -> `a/b.jpg`."""
    return posixpath.normpath(image)


def path_fault(image: str) -> str | None:
    """Why a path cannot name an image below the image folder, or None."""
    if not image.strip():
        return "is empty"
    if image.startswith("/") or _DRIVE.match(image):
        return "is absolute; give it relative to the image folder"
    if "\\" in image:
        return "has \\ between folders; write /"
    path = normal_path(image)
    if path.split("/")[0] == "..":
        return "leaves the image folder"
    if path == "." or image.endswith("/"):
        return "names a folder, not a file"
    return None


def missing_images(images: Iterable[str], root: str | os.PathLike) -> dict[str, str]:
    """Image -> why it is missing below `root`, for those that are.

    Every folder is listed once, which is far faster on network disks than asking for
    40,000 files. Names must match in upper and lower case on every file system.
    """
    missing: dict[str, str] = {}
    names_in = functools.cache(lambda folder: names_by_form(_listing(root, folder)))
    for folder, members in _by_folder(images).items():
        try:
            listing = _listing(root, folder)
        except OSError as error:
            reason = _no_folder(folder, names_in) if isinstance(error, FileNotFoundError) else error.strerror
            missing.update(dict.fromkeys(members, f"{reason}"))
            continue
        absent = [image for image in members if not _is_file(listing.get(_name(image)))]
        missing.update(_reasons(absent, listing))
    return missing


def image_sizes(images: Sequence[str], root: str | os.PathLike) -> list[int | None]:
    """The size of each file in bytes, None where there is none; every folder is listed once."""
    sizes: dict[str, int] = {}
    for folder, members in _by_folder(images).items():
        try:
            listing = _listing(root, folder)
        except OSError:
            continue
        found = {image: listing.get(_name(image)) for image in members}
        sizes.update({image: entry.stat().st_size for image, entry in found.items() if entry and _is_file(entry)})
    return [sizes.get(image) for image in images]


def _by_folder(images: Iterable[str]) -> dict[str, list[str]]:
    """Folder below the root -> its images."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for image in images:
        by_folder[posixpath.dirname(normal_path(image))].append(image)
    return by_folder


def _listing(root: str | os.PathLike, folder: str) -> dict[str, os.DirEntry]:
    return {entry.name: entry for entry in list_folder(os.path.join(root, folder))}


def _name(image: str) -> str:
    return posixpath.basename(normal_path(image))


def _is_file(entry: os.DirEntry | None) -> bool:
    try:
        return entry is not None and entry.is_file()
    except OSError:  # a link in a circle, or into a folder that is closed to us
        return False


def _reasons(absent: Sequence[str], listing: dict[str, os.DirEntry]) -> dict[str, str]:
    """Image -> why it is no file, which may be that the file is spelled in another case."""
    if not absent:
        return {}
    folded = {name.casefold(): name for name in listing}
    by_form, reasons = names_by_form(listing), {}
    for image in absent:
        name = _name(image)
        if name in listing:
            reasons[image] = _why_no_file(listing[name])
        else:
            other = folded.get(name.casefold())
            reasons[image] = f"the file is named '{other}'" if other else _in_another_form(name, by_form) or NO_FILE
    return reasons


def _no_folder(folder: str, names_in: Callable[[str], Mapping[str, Sequence[str]]]) -> str:
    """Why there is no such folder, which may be that the name of one of its parts has another Unicode form.

    names_in: the names in a folder below the root, by their form.
    """
    above = ""
    with contextlib.suppress(OSError):
        for part in folder.split("/"):
            by_form = names_in(above)
            if part not in by_form.get(composed(part), ()):
                return _in_another_form(part, by_form) or NO_FOLDER
            above = posixpath.join(above, part)
    return NO_FOLDER


def _in_another_form(name: str, by_form: Mapping[str, Sequence[str]]) -> str:
    """A remark on the only name that looks the same and is written in another Unicode form, if there is one."""
    match by_form.get(composed(name)):
        case [other]:
            return f"its name has another Unicode form there: {other!a}, not {name!a}; rename one"
    return ""


def _why_no_file(entry: os.DirEntry) -> str:
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        return f"a link that cannot be followed: {error.strerror}"
    return "a folder, not a file" if stat.S_ISDIR(mode) else "a pipe or device, not a file"


def read_images(
    images: Sequence[str], root: str | os.PathLike, full: bool, workers: int | None = None
) -> list[tuple[str | None, str | None]]:
    """(fault, None) or (None, digest) of each image, read by parallel threads.

    `full` decodes every pixel, see `dataset.decoding.image_fault`.
    """
    workers = workers or min(16, 4 * available_cores())

    def read(image: str) -> tuple[str | None, str | None]:
        return _read_image(Path(root, image), full)

    load_decoders()
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on metadata would tear the progress bar
        return list(tqdm(pool.map(read, images), total=len(images), desc="images", unit="image"))


def _read_image(path: Path, full: bool) -> tuple[str | None, str | None]:
    try:
        content = read_content(path)
    except Unusable as unusable:
        return str(unusable), None
    fault = image_fault(content, full)
    return (fault, None) if fault else (None, blake2_of(content))
