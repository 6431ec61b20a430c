"""Who is in which frame: boxes as trackers, detectors and people write them, in one of three forms.

    *.csv     columns image, left, top, width, height; all others are metadata, as of images (`search.files.metadata`)
    *.json    COCO: images, annotations with bbox, and track_id and score where they are; of categories that are called
              person, these alone
    *.txt     MOT Challenge: frame, track, left, top, width, height, ..., of the images of one folder

Frames are named as images of a gallery, by their paths below its folder.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dataset.annotation_entries import Box
from dataset.csv_table import read_table
from dataset.image_files import normal_path, path_fault
from dataset.image_folders import composed
from dataset.text_files import read_text
from search.files.crops import crop_name
from search.files.images import ImageSource
from search.files.metadata import LARGEST_INTEGER, check_columns, image_in, typed
from utils.errors import UserError
from utils.files import read_json
from utils.paths import expand_home, is_text
from utils.text import shorten

BOX = ("left", "top", "width", "height")
KNOWN = ("image", *BOX)
LARGEST = 10**6  # pixels
PEDESTRIANS = (1, 2, 7)  # classes of MOT Challenge: pedestrian, person on a vehicle, static person
OF_FOLDER = "img1"  # where MOT Challenge has the images of a sequence, beside the folder of its files

Frames = Mapping[str, Sequence[str]]  # by folder: the images in it, sorted
People = dict[str, dict[str, dict[str, Any]]]  # frame -> name of the person's image -> metadata


@dataclass
class BoxCollector:
    """Boxes of a file that were read one after the other."""

    source: str
    people: People = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)

    def has(self, frame: str, box: Box) -> bool:
        """Whether this box of a frame was read already."""
        return crop_name(frame, box) in self.where

    def add(self, frame: str, box: Box, metadata: Mapping[str, Any], where: str) -> None:
        """Raises UserError for a box that cannot be one, or was read before."""
        if not all(abs(side) <= LARGEST for side in box) or box[2] <= 0 or box[3] <= 0:
            raise UserError(f"{self.source}, {where}: {list(box)} is not a box: left, top, width and height in pixels")
        name = crop_name(frame, box)
        if name in self.where:
            raise UserError(
                f"{self.source}, {where}: the box {list(box)} has the same pixels of {frame} as that of"
                f" {self.where[name]}; leave out one of them"
            )
        self.where[name] = where
        own = {key: value for key, value in metadata.items() if value is not None}
        for key, value in own.items():
            if fault := metadata_fault(value):
                raise UserError(f"{self.source}, {where}: {key} is {value!a}, {fault}")
        self.people.setdefault(frame, {})[name] = own


def metadata_fault(value: str | float) -> str:
    """Why an index cannot hold a value of metadata; empty when it can. A gallery that held one could not be opened."""
    if isinstance(value, str):
        return "" if is_text(value) else "which is no text of UTF-8"
    return "" if abs(value) < LARGEST_INTEGER else "more than a number here can be"  # nor NaN


def read_people(files: Sequence[Path], images: Sequence[str], image_source: ImageSource) -> People:
    """The people of all files. images: the paths in `image_source`.

    Raises UserError naming file and row, when a file is of no known form, or two name the same person.
    """
    together: People = {}
    of_folder: dict[str, list[str]] = {}
    for image in images:
        of_folder.setdefault(str(PurePosixPath(image).parent), []).append(image)
    for file in (Path(expand_home(str(file))) for file in files):
        for frame, people in read_file(file, of_folder, image_source).people.items():
            before = together.setdefault(frame, {})
            if twice := before.keys() & people.keys():
                raise UserError(f"--boxes {file}: {min(twice)} is in an earlier file already")
            before.update(people)
    of_one_type([metadata for people in together.values() for metadata in people.values()])
    return together


def of_one_type(rows: Sequence[dict[str, Any]]) -> None:
    """Make text of all values of a name of which some are text: a filter compares with one type."""
    text = {name for row in rows for name, value in row.items() if isinstance(value, str)}
    for row in rows:
        row.update({name: str(value) for name, value in row.items() if name in text})


def read_file(file: Path, frames: Frames, image_source: ImageSource) -> BoxCollector:
    """The people of one file. Raises UserError."""
    ending, source = file.suffix.lower(), f"boxes {file}"
    if ending == ".csv":
        return read_csv(file, source)
    if ending == ".json":
        return read_coco(file, source)
    if ending == ".txt":
        return read_mot(file, source, frames, image_source)
    raise UserError(f"--boxes {file}: its name must end in .csv, .json (COCO) or .txt (MOT Challenge)")


# ---- a table ---------------------------------------------------------------------------


def read_csv(file: Path, source: str) -> BoxCollector:
    table = read_table(file, source, KNOWN, KNOWN)
    names = [composed(name) for name in table.names]  # as filters have them
    others = [index for index, name in enumerate(names) if name and name not in KNOWN]
    check_columns([names[index] for index in others], source)
    images = [normal_path(image_in(table, row)) for row in table.rows]
    columns = {names[index]: typed([row.cells[index] for row in table.rows]) for index in others}
    found = BoxCollector(source)
    for number, row in enumerate(table.rows):
        cells = dict(zip(table.names, row.cells, strict=True))
        box = box_of([cells[name] for name in BOX], f"{source}, {row.where}")
        metadata = {name: values[number] for name, values in columns.items()}
        found.add(images[number], box, metadata, row.where)
    return found


def box_of(values: Iterable[Any], where: str) -> Box:
    """Four numbers. Raises UserError."""
    try:
        left, top, width, height = map(float, values)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: left, top, width and height must be numbers, not {shorten(str(values))}") from None
    return left, top, width, height


# ---- COCO ------------------------------------------------------------------------------


def read_coco(file: Path, source: str) -> BoxCollector:
    content = read_json(file, "boxes")
    names = {plain(one.get("id")): one.get("file_name") for one in part_of(content, "images", source)}
    people = person_categories(part_of(content, "categories", source, required=False))
    found = BoxCollector(source)
    for number, one in enumerate(part_of(content, "annotations", source), 1):
        if one.get("iscrowd") == 1 or (people is not None and plain(one.get("category_id")) not in people):
            continue
        where, name = f"annotation {number}", names.get(plain(one.get("image_id")))
        if not isinstance(name, str) or (fault := path_fault(name)):
            named = shorten(repr(one.get("image_id"))) if not isinstance(name, str) else f"{name!r}, which {fault}"
            raise UserError(f"{source}, {where}: there is no image {named}")
        values = one.get("bbox")
        box = box_of(values if isinstance(values, list) else [values], f"{source}, {where}")
        found.add(normal_path(name), box, scalars({"track": one.get("track_id"), "score": one.get("score")}), where)
    return found


def part_of(content: Any, key: str, source: str, required: bool = True) -> list[dict[str, Any]]:
    """A list of objects. Raises UserError when there is none."""
    found = content.get(key) if isinstance(content, dict) else None
    if found is None and not required:
        return []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"{source} must hold {key}, a list of objects, as annotations of COCO do")
    return found


def person_categories(categories: Sequence[Mapping[str, Any]]) -> set[Any] | None:
    """Identifiers of categories that are called person; None where none is, and all boxes count."""
    return {
        plain(one.get("id")) for one in categories if str(one.get("name")).lower() in ("person", "pedestrian")
    } or None


def scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that can be metadata."""
    return {key: value for key, value in values.items() if type(value) in (int, float, str)}


def plain(identifier: Any) -> int | str | None:
    """An identifier of COCO, a number or a text; None for all else."""
    return identifier if isinstance(identifier, int | str) else None


# ---- MOT Challenge ---------------------------------------------------------------------


def read_mot(file: Path, source: str, frames: Frames, image_source: ImageSource) -> BoxCollector:
    """Rows of frame (from 1), track (-1: none), left, top, width, height, and up to four more numbers.

    Of nine numbers the last three are whether the row counts, its class and the visible share, as in files of ground
    truth; else the seventh is the score of a detector. `camera` is the name of the folder of images.
    """
    lines, found = read_text(file, source).splitlines(), BoxCollector(source)
    if not any(map(str.strip, lines)):
        raise UserError(f"{source} is empty")
    inside = folder_of_frames(file, source, frames, image_source)
    by_number, camera = numbered(frames[inside], source), camera_of(inside, file)
    for number, line in enumerate(lines, 1):
        if line.strip():
            add_row(found, by_number, camera, re.split(r"[,;\s]+", line.strip().rstrip(",")), f"row {number}")
    return found


def add_row(found: BoxCollector, by_number: Mapping[int, str], camera: str, cells: list[str], where: str) -> None:
    try:
        numbers = [float(cell) for cell in cells]
        frame, track = whole(numbers[0]), whole(numbers[1])
        left, top, width, height = numbers[2:6]
        of_truth = len(numbers) == 9
        counts = not of_truth or (numbers[6] != 0 and whole(numbers[7]) in PEDESTRIANS)
    except (ValueError, IndexError, OverflowError):
        raise UserError(
            f"{found.source}, {where}: frame, track, left, top, width, height are expected, not"
            f" {shorten(','.join(cells))}"
        ) from None
    if not counts:
        return
    if frame not in by_number:
        raise UserError(f"{found.source}, {where}: there is no image of frame {frame}")
    extra = {"visible": numbers[8]} if of_truth else {"score": numbers[6]} if len(numbers) > 6 else {}
    metadata = {"track": track if track >= 0 else None, "camera": camera, "frame": frame, **extra}
    found.add(by_number[frame], (left, top, width, height), metadata, where)


def folder_of_frames(file: Path, source: str, frames: Frames, image_source: ImageSource) -> str:
    """The folder of the images that a file is of: one of its name, img1 beside the folder it is in, or the only one."""
    named = [name for name in frames if PurePosixPath(name).name == file.stem]
    sequence = Path(os.path.realpath(file)).parent.parent / OF_FOLDER
    beside = [name for name in frames if Path(os.path.realpath(image_source.named(name))) == sequence]
    for possible in (beside, named, list(frames)):
        if len(possible) == 1:
            return possible[0]
    if named:
        raise UserError(f"{source}: which images is it of? There are {' and '.join(sorted(named))}; index one of them")
    raise UserError(
        f"{source}: which images is it of? Let it be called as their folder ({file.stem}), or lie in SEQUENCE/gt beside"
        f" SEQUENCE/{OF_FOLDER}"
    )


def camera_of(inside: str, file: Path) -> str:
    parts = [part for part in PurePosixPath(inside).parts if part != OF_FOLDER]
    return parts[-1] if parts else file.stem


def whole(number: float) -> int:
    """Raises ValueError for a number that is not whole."""
    if not number.is_integer():
        raise ValueError(number)
    return int(number)


def numbered(images: Sequence[str], source: str) -> dict[int, str]:
    """The images of a folder by the numbers in their names. Raises UserError where two have the same."""
    found: dict[int, str] = {}
    for image in images:
        number = number_of(image)
        if number is not None and found.setdefault(number, image) != image:
            raise UserError(f"{source}: which image is frame {number}? There are {found[number]} and {image}")
    return found


def number_of(image: str) -> int | None:
    """The number in which the name of an image ends."""
    digits = re.search(r"(\d+)$", PurePosixPath(image).stem)
    return int(digits[1]) if digits else None
