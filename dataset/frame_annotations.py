"""Captions of persons in whole frames: PRW-TBPS and CUHK-SYSU-TBPS.

Both add captions to a data set of person search, whose boxes and identities lie in files of MATLAB. The captions are
two JSON files, NAME_train and NAME_test, with lists of {"id", "pic_path", "desrciption"} (so spelled): a person in a
frame and what was written about them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset.annotation_entries import Box, Problem, RawEntry, quote
from dataset.annotation_json import read_json_entries
from dataset.image_files import path_fault
from dataset.matlab_files import as_list, read_matlab
from utils.errors import UserError

FRAME_SPLITS = ("train", "test")
UNLABELLED = -2
"""The identity of persons whom nobody has named, as in PRW: in the gallery they are right for no caption."""
CAPTION_KEYS = {"pic_path": "file_path", "desrciption": "captions", "description": "captions"}
PRW_BOXES = ("box_new", "anno_file", "anno_previous")  # under which name a file of PRW has them, the usual one first

Annotations = tuple[list[RawEntry], list[Problem]]


@dataclass(frozen=True)
class Person:
    """A box of a frame; number: its place among those of the frame, from 1. A wrong box is None."""

    frame: str
    number: int
    identity: int
    box: Box | None

    @property
    def where(self) -> str:
        return f"{self.frame}, box {self.number}"


def read_prw(path: Path, split_required: bool = True) -> Annotations:
    """Persons of PRW with the captions of PRW-TBPS, whose training captions are at `path`.

    frame_train.mat and frame_test.mat list the frames; annotations/FRAME.jpg.mat has a row for each box: identity,
    left, top, width, height. Raises UserError when a file is missing or not what it should be.
    """
    root = path.parent
    lists = {split: f"frame_{split}.mat" for split in FRAME_SPLITS}
    _require(root, "PRW-TBPS", ("PRW-TBPS_test", *lists.values(), "annotations", "frames"))
    persons: dict[str, list[Person]] = {}
    problems: list[Problem] = []
    for split, file in lists.items():
        persons[split] = []
        for name in tqdm(_names(root / file, f"img_index_{split}"), desc=f"boxes of {split}", unit="frame"):
            found, wrong = _prw_frame(root / "annotations", f"{name}.jpg")
            persons[split] += found
            problems += wrong
    return _with_captions(root, "PRW-TBPS", persons, problems)


def read_cuhk_sysu(path: Path, split_required: bool = True) -> Annotations:
    """Persons of CUHK-SYSU with the captions of CUHK-SYSU-TBPS, whose training captions are at `path`.

    annotation/Images.mat has the boxes of every frame, annotation/Person.mat those of every identity, and
    annotation/pool.mat the frames of the test split. Boxes without an area, of which the release has some, are left
    out where nobody has named the person, as its own code does. Raises UserError when a file is missing or not what
    it should be.
    """
    root = path.parent
    folder = root / "annotation"
    needed = ("CUHK-SYSU-TBPS_test", *(f"annotation/{name}.mat" for name in ("Images", "Person", "pool")), "Image/SSM")
    _require(root, "CUHK-SYSU-TBPS", needed)
    identities = dict(_sysu_identities(folder / "Person.mat"))
    test = set(_names(folder / "pool.mat", "pool"))
    persons: dict[str, list[Person]] = {split: [] for split in FRAME_SPLITS}
    problems = []
    for image in _structures(folder / "Images.mat", "Img", ("imname", "box")):
        frame = str(image["imname"])
        if fault := path_fault(frame):
            problems.append(Problem("bad image path", f"frame {quote(frame)}", fault))
            continue
        for number, one in enumerate(as_list(image["box"]), start=1):
            values = _numbers(one.get("idlocate") if isinstance(one, dict) else None, 4)
            identity = identities.pop((frame, values), UNLABELLED)
            if identity == UNLABELLED and len(values) == 4 and min(values[2:]) <= 0:
                continue
            box, wrong = _checked_box(values, f"{frame}, box {number}")
            problems += wrong
            persons["test" if frame in test else "train"].append(Person(frame, number, identity, box))
    for (frame, values), identity in identities.items():
        what = f"its box {list(values)} is not among those of {frame} in Images.mat"
        problems.append(Problem("no box", f"Person.mat, person {identity}", what))
    return _with_captions(root, "CUHK-SYSU-TBPS", persons, problems)


def _with_captions(root: Path, name: str, persons: dict[str, list[Person]], problems: list[Problem]) -> Annotations:
    """An entry for each person that training or evaluation uses, with the captions of NAME_train and NAME_test.

    For training these are the persons with captions. Of the test split they are all: whom a caption describes is
    right for it, also in other frames; the others are distractors. PRW has some people of its training split in test
    frames too; no caption of the test split is about them, and they count as unlabelled.
    """
    entries: list[RawEntry] = []
    trained = {person.identity for person in persons["train"]} - {UNLABELLED}
    for split, found in persons.items():
        described, wrong = _descriptions(root / f"{name}_{split}")
        problems += wrong
        waiting = dict(described)
        for person in found:
            caption_entry = waiting.pop((person.frame, person.identity), None)
            if caption_entry is None and split == "train":
                if person.identity == UNLABELLED or (person.frame, person.identity) in described:
                    continue
            elif caption_entry is None and person.identity in trained:
                person = replace(person, identity=UNLABELLED)
            entries.append(_entry(person, split, caption_entry))
        problems += [
            Problem("no box", entry.where, f"no box of {frame} has the identity {identity!r} in this split")
            for (frame, identity), entry in waiting.items()
        ]
    return entries, problems


def _entry(person: Person, split: str, described: RawEntry | None) -> RawEntry:
    captions = described.captions if described else ()
    return RawEntry(
        where=described.where if described else person.where,
        split=split,
        image=f"{split}/{PurePosixPath(person.frame).with_suffix('')}_{person.number:02d}.png",
        identity=person.identity,
        captions=captions,
        uncaptioned=described.uncaptioned if described else True,
        frame=person.frame,
        box=person.box,
    )


def _descriptions(path: Path) -> tuple[dict[tuple[str, int | str], RawEntry], list[Problem]]:
    """(frame, identity) -> the entry with its captions."""
    entries, problems = read_json_entries(path, image_key="pic_path", renamed=CAPTION_KEYS, skip_blank=True)
    problems = [replace(problem, where=f"{path.name}, {problem.where}") for problem in problems]
    found: dict[tuple[str, int | str], RawEntry] = {}
    for entry in entries:
        entry = replace(entry, where=f"{path.name}, {entry.where}")
        if entry.image is None or entry.identity is None:
            continue
        earlier = found.setdefault((entry.image, entry.identity), entry)
        if earlier is not entry:
            problems.append(Problem("described twice", entry.where, f"the person is already in {earlier.where}"))
    return found, problems


def _prw_frame(folder: Path, frame: str) -> tuple[list[Person], list[Problem]]:
    """The persons of one frame of PRW, and what is wrong with them."""
    where = f"frame {quote(frame)}"
    if fault := path_fault(frame):
        return [], [Problem("bad image path", where, fault)]
    try:
        content = read_matlab(folder / f"{frame}.mat")
    except UserError as error:
        return [], [Problem("unreadable boxes", where, str(error))]
    rows = next((content[name] for name in PRW_BOXES if name in content), None)
    numbers = _numbers(rows, None)
    if rows is None or len(numbers) % 5:
        what = f"{frame}.mat must hold {PRW_BOXES[0]} with rows of identity, left, top, width and height"
        return [], [Problem("unreadable boxes", where, what)]
    persons, problems = [], []
    for number in range(1, len(numbers) // 5 + 1):
        identity, *values = numbers[5 * number - 5 : 5 * number]
        box, wrong = _checked_box(values, f"{frame}, box {number}")
        problems += wrong
        if identity != UNLABELLED and not (0 < identity < 2**53 and identity.is_integer()):
            what = f"its identity {identity:g} is neither a whole number above 0 nor {UNLABELLED} (not named)"
            problems.append(Problem("wrong type", f"{frame}, box {number}", what))
        else:
            persons.append(Person(frame, number, int(identity), box))
    return persons, problems


def _sysu_identities(path: Path) -> Iterable[tuple[tuple[str, tuple[float, ...]], int]]:
    """((frame, box), identity) of every box in Person.mat; identities are written p1, p2, ..."""
    for person in _structures(path, "Person", ("idname", "scene")):
        name = str(person["idname"])
        if not (name[:1] == "p" and name[1:].isdecimal()):
            raise UserError(f"{path}: identity {quote(name)} is not of the form p17")
        for scene in as_list(person["scene"]):
            if not isinstance(scene, dict) or not {"imname", "idlocate"} <= scene.keys():
                raise UserError(f"{path}: a scene of {name} has no imname and idlocate")
            yield (str(scene["imname"]), _numbers(scene["idlocate"], 4)), int(name[1:])


def _checked_box(values: Sequence[float], where: str) -> tuple[Box | None, list[Problem]]:
    """The box if it can be one in some frame."""
    if len(values) != 4 or not all(map(math.isfinite, values)):
        return None, [Problem("bad box", where, f"must be four numbers, found {quote(list(values))}")]
    left, top, width, height = values
    if width <= 0 or height <= 0:
        return None, [Problem("bad box", where, f"has no area: width {width:g}, height {height:g}")]
    return (left, top, width, height), []


def _numbers(value: Any, count: int | None) -> tuple[float, ...]:
    """The numbers of an array, row by row; none when it has others, or not `count`."""
    try:
        numbers = tuple(np.asarray(value, dtype=np.float64).ravel().tolist())
    except (TypeError, ValueError):
        return ()
    return numbers if count is None or len(numbers) == count else ()


def _names(path: Path, variable: str) -> list[str]:
    """A list of names of frames. Raises UserError when the file does not hold it."""
    names = as_list(read_matlab(path).get(variable))
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} must hold {variable}, a list of names of frames")
    return list(map(str, names))


def _structures(path: Path, variable: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """An array of structures with these fields. Raises UserError when the file does not hold it."""
    found = as_list(read_matlab(path).get(variable))
    if not all(isinstance(one, dict) and set(fields) <= one.keys() for one in found):
        raise UserError(f"{path} must hold {variable}, structures with {' and '.join(fields)}")
    return found


def _require(root: Path, name: str, needed: Sequence[str]) -> None:
    """Raise UserError naming what is missing of a data set."""
    missing = [one for one in needed if not (root / one).exists()]
    if missing:
        raise UserError(f"{root} has no {', '.join(missing)}; {name} needs the files of its release and of the frames")
