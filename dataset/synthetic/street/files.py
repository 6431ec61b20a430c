"""Writes a street: its frames, and what is in them in the forms that programs of tracking and detection write.

ROOT/frames/camera_1/000001.jpg
ROOT/boxes.csv           a row for each person in a frame: image, left, top, width, height, track, camera, ...
ROOT/mot/camera_1.txt    the same in the form of MOT Challenge, a file for each camera
ROOT/coco.json           the same as annotations of COCO
ROOT/people.json         who walks there: captions and tracks of each person
ROOT/street.json         the options, and whether all of it is drawn
"""

import csv
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dataset.synthetic.camera import encode
from dataset.synthetic.captions import write_captions
from dataset.synthetic.claim import claimed, holds_files
from dataset.synthetic.render import is_noticed
from dataset.synthetic.street.scene import Frame, Seen, StreetOptions, draw_frame, person_of, row_of, walks_of
from utils.errors import UserError
from utils.files import atomic_write, read_json, require_writable_folder, write_json
from utils.processes.parallel import map_in_order

MADE_BY, VERSION = "dataset.synthetic.street", 1
MARKER, FRAMES, MOT = "street.json", "frames", "mot"
COLUMNS = ("image", "left", "top", "width", "height", "track", "camera", "frame", "second", "visible")
CAPTIONS = 2  # of each person
PERSON = 1  # the category of COCO, and the class of MOT Challenge

Row = dict[str, Any]
Drawn = tuple[list[Row], list[tuple[int, int, Seen]]]  # rows of some frames; camera, frame and who is seen there


def image_of(camera: int, number: int) -> str:
    """The name of a frame below ROOT/frames."""
    return f"camera_{camera}/{number:06d}.jpg"


def draw_street(root: str | Path, options: StreetOptions, workers: int = 1) -> bool:
    """Draw a street into `root`. False when it is there already, with the same options.

    Raises UserError when `root` holds anything else, and when another process is drawing there.
    """
    root = Path(root)
    if is_finished(root, options):
        return False
    with claimed(root):
        if is_finished(root, options):  # by a process that held the folder until now
            return False
        for folder in (FRAMES, MOT):
            shutil.rmtree(root / folder, ignore_errors=True)
        write_json(root / MARKER, marker_of(options, False), indent=2)
        draw(root, options, workers)
        write_json(root / MARKER, marker_of(options, True), indent=2)
    return True


def draw(root: Path, options: StreetOptions, workers: int) -> None:
    """Fill a folder that has a marker."""
    rows: list[Row] = []
    best: dict[int, tuple[int, int, Seen]] = {}
    tracks: dict[int, set[int]] = {}
    for found, seen in draw_all(root, options, workers):
        rows += found
        for one in seen:
            keep_best(best, one)
            tracks.setdefault(one[2].walk.identity, set()).add(one[2].walk.track)
    write_boxes(root, rows)
    write_mot(root, rows)
    write_json(root / "coco.json", coco_of(options, rows))
    people = [person_record(options, best[identity], tracks[identity]) for identity in sorted(best)]
    write_json(root / "people.json", people, indent=2)


def marker_of(options: StreetOptions, finished: bool) -> dict[str, Any]:
    return {"made_by": MADE_BY, "version": VERSION, "options": asdict(options), "finished": finished}


def is_finished(root: Path, options: StreetOptions) -> bool:
    """Whether `root` holds this street. Raises UserError when it holds anything that must not be replaced."""
    require_writable_folder(root, "folder")
    if not holds_files(root):
        return False
    found = read_json(root / MARKER, "marker file") if (root / MARKER).is_file() else None
    if not isinstance(found, dict) or found.get("made_by") != MADE_BY:
        raise UserError(f"{root} is not empty and was not made by this program; name a new or an empty folder")
    if found.get("finished") and found != marker_of(options, True):
        raise UserError(f"{root} holds a street that was drawn with other options; name another folder")
    return bool(found.get("finished"))


# ---- drawing ---------------------------------------------------------------------------


def draw_some(root: Path, options: StreetOptions, camera: int, numbers: range) -> Drawn:
    """Draw and write some frames of a camera; what a worker is sent."""
    rows: list[Row] = []
    seen = []
    walks = walks_of(options, camera)
    for number in numbers:
        frame = draw_frame(options, camera, number, walks)
        write_frame(root, frame)
        moment = {"camera": camera, "frame": number, "second": round((number - 1) * options.seconds, 3)}
        rows += [{"image": image_of(camera, number), **moment, **row_of(one)} for one in frame.seen]
        seen += [(camera, number, one) for one in frame.seen]
    return rows, seen


def write_frame(root: Path, frame: Frame) -> None:
    """Raises UserError when the disk does not let it."""
    path = root / FRAMES / image_of(frame.camera, frame.number)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(frame.image, "jpg", frame.quality))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def draw_all(root: Path, options: StreetOptions, workers: int, at_once: int = 8) -> Iterator[Drawn]:
    """All frames, camera by camera, in their order."""
    chunks = [
        (camera, range(first, min(first + at_once, options.frames + 1)))
        for camera in range(1, options.cameras + 1)
        for first in range(1, options.frames + 1, at_once)
    ]
    with tqdm(total=options.cameras * options.frames, unit="frame", desc="drawing") as bar:
        drawn = map_in_order(draw_chunk, chunks, workers, (root, options))
        for (_, numbers), one in zip(chunks, drawn, strict=True):
            yield one
            bar.update(len(numbers))


def draw_chunk(root: Path, options: StreetOptions, chunk: tuple[int, range]) -> Drawn:
    return draw_some(root, options, *chunk)


# ---- who is there ----------------------------------------------------------------------


def keep_best(best: dict[int, tuple[int, int, Seen]], found: tuple[int, int, Seen]) -> None:
    """Remember where most is seen of each person."""
    identity = found[2].walk.identity
    if identity not in best or pixels_of(best[identity][2]) < pixels_of(found[2]):
        best[identity] = found


def pixels_of(seen: Seen) -> int:
    return sum(seen.pixels.values())


def person_record(options: StreetOptions, best: tuple[int, int, Seen], tracks: set[int]) -> dict[str, Any]:
    """Captions of what is seen where most of someone is (camera, frame and who is there), and all tracks."""
    (camera, number, seen), identity = best, best[2].walk.identity
    left, top, right, bottom = seen.box
    area = (right - left) * (bottom - top)
    noticed = {name for name, count in seen.pixels.items() if is_noticed(name, count, area)}
    rng = random.Random(f"street captions/{options.seed}/{identity}")
    person = person_of(options, identity)
    captions = write_captions(person, noticed, seen.walk.view, True, CAPTIONS, rng, thorough=True)
    return {
        "id": identity,
        "captions": [caption["text"] for caption in captions],
        "described": {"image": image_of(camera, number), "track": seen.walk.track},
        "tracks": sorted(tracks),
    }


# ---- boxes in three forms --------------------------------------------------------------


def write_boxes(root: Path, rows: Sequence[Row]) -> None:
    with atomic_write(root / "boxes.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def write_mot(root: Path, rows: Sequence[Row]) -> None:
    """Frame, track, left, top, width, height, 1 = to be counted, class, visible share."""
    lines: dict[int, list[str]] = {}
    for row in rows:
        box = [row[name] for name in ("frame", "track", "left", "top", "width", "height")]
        lines.setdefault(row["camera"], []).append(",".join(map(str, [*box, 1, PERSON, row["visible"]])))
    (root / MOT).mkdir(exist_ok=True)
    for camera, found in lines.items():
        with atomic_write(root / MOT / f"camera_{camera}.txt") as temporary:
            temporary.write_text("\n".join(found) + "\n", encoding="utf-8")


def coco_of(options: StreetOptions, rows: Sequence[Row]) -> dict[str, Any]:
    """Boxes as annotations of COCO, with the track of each."""
    names = [
        image_of(camera, number) for camera in range(1, options.cameras + 1) for number in range(1, options.frames + 1)
    ]
    numbers = {name: number for number, name in enumerate(names, 1)}
    size = {"width": options.width, "height": options.height}
    annotations = [
        {
            "id": number,
            "image_id": numbers[row["image"]],
            "category_id": PERSON,
            "bbox": [row["left"], row["top"], row["width"], row["height"]],
            "area": row["width"] * row["height"],
            "iscrowd": 0,
            "track_id": row["track"],
        }
        for number, row in enumerate(rows, 1)
    ]
    return {
        "images": [{"id": number, "file_name": name, **size} for name, number in numbers.items()],
        "annotations": annotations,
        "categories": [{"id": PERSON, "name": "person"}],
    }
