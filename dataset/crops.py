"""Persons cut out of whole frames, as PNG files that are made once.

PNG keeps the pixels of the frame as they are; a second compression as JPEG would change them. Each file says of which
frame (by the digest of its content) and box it is, so that a later call, also after one that was killed, makes only
what is missing or no longer right.
"""

import io
import json
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image, PngImagePlugin
from tqdm import tqdm

from dataset.annotation_entries import Box, Problem, RawEntry
from dataset.decoding import Unusable, decode, image_fault, load_decoders, read_content
from dataset.digests import blake2_of
from dataset.image_files import missing_images, normal_path
from utils.errors import UserError
from utils.files import atomic_write, remove_leftovers
from utils.processes.parallel import available_cores

SOURCE = "cut from"  # the key of the text in a PNG
INSIDE = 0.5
"""The share of a box that must lie within its frame; what sticks out is cut off."""

Result = TypeVar("Result")


@dataclass
class FrameFindings:
    """What is wrong with frames and boxes; digests of the persons that are cut out already; those that are not."""

    problems: list[Problem] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)  # by normalised name of the crop
    uncut: list[RawEntry] = field(default_factory=list)


def pixels_of(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels that a box touches, within a frame of (width, height)."""
    left, top, width, height = box
    return (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(size[0], math.ceil(left + width)),
        min(size[1], math.ceil(top + height)),
    )


def box_fault(box: Box, size: tuple[int, int]) -> str | None:
    """Why a box (of finite numbers, with an area) cannot be cut out of a frame of (width, height), or None."""
    left, top, width, height = box
    inside = max(0.0, min(left + width, size[0]) - max(left, 0)) * max(0.0, min(top + height, size[1]) - max(top, 0))
    if inside >= INSIDE * width * height:
        return None
    lies = "lies outside" if inside == 0 else f"has less than {INSIDE:.0%} of its area within"
    return f"[{left:g}, {top:g}, {width:g}, {height:g}] {lies} its frame of {size[0]} x {size[1]} pixels"


def check_frames(
    entries: Iterable[RawEntry], frames: str | os.PathLike, crops: str | os.PathLike, workers: int | None = None
) -> FrameFindings:
    """Look at the frames below `frames` and at what was cut out of them into `crops`; nothing is written.

    A frame is decoded in full unless all its persons are cut out.
    """
    by_frame = _by_frame(entries)
    found = FrameFindings()
    missing = missing_images(by_frame, frames)
    for frame, reason in missing.items():
        where = by_frame[frame][0].where
        found.problems.append(Problem("missing image", where, f"{os.path.join(frames, frame)}: {reason}"))

    def check(frame: str) -> FrameFindings:
        return _check_frame(Path(frames, frame), by_frame[frame], Path(crops))

    for one in _threaded(check, [frame for frame in by_frame if frame not in missing], "frames", workers):
        found.problems += one.problems
        found.digests |= one.digests
        found.uncut += one.uncut
    return found


def cut_persons(
    entries: Iterable[RawEntry], frames: str | os.PathLike, crops: str | os.PathLike, workers: int | None = None
) -> dict[str, str]:
    """Cut persons out of the frames below `frames`, each to a file of its own below `crops`; returns their digests.

    Entries are those that `check_frames` found fine. Raises UserError when a frame can no longer be read, or a file
    cannot be written; what was cut until then is used by the next call.
    """
    by_frame = _by_frame(entries)
    digests: dict[str, str] = {}
    for folder in {Path(crops, str(person.image)).parent for persons in by_frame.values() for person in persons}:
        if folder.is_dir():
            remove_leftovers(folder)

    def cut(frame: str) -> dict[str, str]:
        return _cut_frame(Path(frames, frame), by_frame[frame], Path(crops))

    for one in _threaded(cut, list(by_frame), "cutting", workers):
        digests |= one
    return digests


def _by_frame(entries: Iterable[RawEntry]) -> dict[str, list[RawEntry]]:
    """Frame -> its persons that have a box."""
    by_frame: dict[str, list[RawEntry]] = defaultdict(list)
    for entry in entries:
        if entry.frame is not None and entry.box is not None and entry.image is not None:
            by_frame[entry.frame].append(entry)
    return by_frame


def _threaded(
    function: Callable[[str], Result], frames: Sequence[str], title: str, workers: int | None
) -> list[Result]:
    """What the function says of each frame, by parallel threads."""
    if not frames:
        return []
    load_decoders()
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or min(16, 2 * available_cores())) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on metadata would tear the progress bar
        return list(tqdm(pool.map(function, frames), total=len(frames), desc=title, unit="frame"))


def _check_frame(path: Path, persons: Sequence[RawEntry], crops: Path) -> FrameFindings:
    found = FrameFindings()
    try:
        content = read_content(path)
        frame_digest = blake2_of(content)
        for person in persons:
            digest = _digest_of_crop(crops / str(person.image), _source(frame_digest, person))
            if digest:
                found.digests[normal_path(str(person.image))] = digest
            else:
                found.uncut.append(person)
        size = decode(content).size if found.uncut else None
    except Unusable as unusable:
        return FrameFindings([Problem("unreadable image", persons[0].where, f"{path} {unusable}")])
    for person in found.uncut:
        if size and person.box and (fault := box_fault(person.box, size)):
            found.problems.append(Problem("bad box", person.where, f"box {fault} ({person.frame})"))
    return found


def _cut_frame(path: Path, persons: Sequence[RawEntry], crops: Path) -> dict[str, str]:
    try:
        content = read_content(path)
        frame = decode(content)
    except Unusable as unusable:
        raise UserError(f"frame {path} {unusable}; it was fine a moment ago") from None
    frame_digest = blake2_of(content)
    digests = {}
    for person in persons:
        if person.box is None or person.image is None:
            continue
        text = PngImagePlugin.PngInfo()
        text.add_text(SOURCE, _source(frame_digest, person))
        file = io.BytesIO()
        frame.crop(pixels_of(person.box, frame.size)).save(file, "PNG", pnginfo=text)
        with atomic_write(crops / person.image) as temporary:
            temporary.write_bytes(file.getvalue())
        digests[normal_path(person.image)] = blake2_of(file.getvalue())
    return digests


def _source(frame_digest: str, person: RawEntry) -> str:
    """The text in a PNG: what it was made of."""
    return json.dumps([frame_digest, person.box])


def _digest_of_crop(path: Path, source: str) -> str | None:
    """The digest of a crop that is whole and made of this source, else None."""
    try:
        content = read_content(path)
        if image_fault(content):
            return None
        with Image.open(io.BytesIO(content)) as image:
            return blake2_of(content) if image.info.get(SOURCE) == source else None
    except (Unusable, OSError):
        return None
