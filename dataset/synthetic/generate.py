"""Draws all identities, on several processes, and writes the files in an order that is safe to interrupt.

Every identity is drawn from (seed, identity) and every picture from (seed, identity, image)
alone, so the files do not depend on the number of workers.
"""

import contextlib
import json
import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from tqdm import tqdm

from dataset.synthetic.camera import encode, encode_mask
from dataset.synthetic.captions import tokens, write_captions
from dataset.synthetic.ceiling import ceilings_of
from dataset.synthetic.claim import claimed, holds_files
from dataset.synthetic.lookalikes import sample_group
from dataset.synthetic.marker import MADE_BY, MARKER, SEARCHED
from dataset.synthetic.options import VERSION, Options
from dataset.synthetic.person import ATTRIBUTES, Person, sample_person
from dataset.synthetic.render import Picture, draw_picture
from utils.errors import UserError
from utils.files import atomic_write, read_json, write_json
from utils.processes.parallel import map_in_order

logger = logging.getLogger(__name__)

Drawn = tuple[list[dict[str, Any]], dict[str, Any]]  # raw entries of an identity, and its attribute record

RAW, LEGEND = "reid_raw.json", "attributes.json"
FILES_PER_FOLDER = 1000
CHUNK = 8  # identities per task: small enough to share evenly, large enough to hide the hand-over


def person_of(options: Options, identity: int) -> Person:
    """The person with this number."""
    if options.group_size == 1:
        return sample_person(random.Random(f"person/{options.seed}/{identity}"))
    first, index = options.group_of(identity)
    rng = random.Random(f"group/{options.seed}/{first}")
    return sample_group(rng, options.group_size, options.differing_details, options.details)[index]


def picture_of(options: Options, identity: int, image: int, person: Person) -> tuple[Picture, list[dict[str, Any]]]:
    """One picture and its captions."""
    options = options.for_person(identity)
    rng = random.Random(f"picture/{options.seed}/{identity}/{image}")
    size = (options.height, options.width)
    picture = draw_picture(person, rng, size, options.nuisance, options.occlusion_share, options.smallest_detail)
    rng = random.Random(f"captions/{options.seed}/{identity}/{image}")
    captions = write_captions(
        person,
        picture.noticed(),
        picture.view,
        picture.moving,
        options.captions_per_image,
        rng,
        thorough=options.caption_style == "thorough",
    )
    return picture, captions


def image_name(options: Options, identity: int, image: int) -> str:
    """Path below imgs/: split / folder of at most 1000 files / identity_image."""
    split, index = options.split_of(identity)
    folder = index // max(1, FILES_PER_FOLDER // options.images_per_identity)
    return f"{split}/{folder:04d}/{identity:06d}_{image:03d}.{options.image_format}"


def draw_identity(root: Path, options: Options, identity: int) -> Drawn:
    """Write the images and masks of one identity; its raw entries and its attribute record."""
    person = person_of(options, identity)
    split, _ = options.split_of(identity)
    entries, images = [], []
    for image in range(options.images_per_identity):
        name = image_name(options, identity, image)
        picture, captions = picture_of(options, identity, image, person)
        write_bytes(root / "imgs" / name, encode(picture.image, options.image_format, picture.camera.quality))
        mask = str(PurePosixPath(name).with_suffix(".png"))
        if options.masks:
            write_bytes(root / "masks" / mask, encode_mask(picture.label))
        texts = [caption["text"] for caption in captions]
        entries.append(
            {
                "split": split,
                "captions": texts,
                "file_path": name,
                "processed_tokens": [tokens(text) for text in texts],
                "id": identity,
            }
        )
        images.append(
            {
                "file_path": name,
                "mask": mask if options.masks else None,
                "view": picture.view,
                "moving": picture.moving,
                "occlusion": picture.occlusion,
                "visible_pixels": picture.visible_pixels(),
                "captions": [{"mentions": caption["mentions"]} for caption in captions],
            }
        )
    return entries, {"id": identity, "split": split, "attributes": person.describe(), "images": images}


def write_bytes(path: Path, contents: bytes) -> None:
    """Write one image; raises UserError when the disk does not let it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def draw_chunk(root: Path, options: Options, identities: range) -> list[Drawn]:
    """`draw_identity` for several identities; what a worker is sent."""
    return [draw_identity(root, options, identity) for identity in identities]


def draw_all(root: Path, options: Options, workers: int) -> Iterator[Drawn]:
    """Results of all identities in order; only a few chunks are in memory at a time."""
    numbers = range(1, options.identities + 1)
    chunks = (numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK))
    for drawn in map_in_order(draw_chunk, chunks, workers, (root, options)):
        yield from drawn


def generate(root: str | Path, options: Options, workers: int = 1, overwrite: bool = False) -> bool:
    """Make the benchmark in `root`. False when it was there already, made with the same options.

    The marker file comes first and reid_raw.json last, so a folder without reid_raw.json
    is an interrupted run and is begun anew.

    Raises UserError when `root` holds anything else, or a finished benchmark of other
    options and `overwrite` is not set, and when another process is drawing there.
    """
    root = Path(root)
    if workers < 1:
        raise UserError(f"workers is {workers}; choose 1 or more")
    if keep_finished(root, options, overwrite):
        return False
    with claimed(root):
        if keep_finished(root, options, overwrite):  # by a process that held the folder until now
            return False
        clear(root)
        write_json(root / MARKER, marker_of(options), indent=2)
        draw(root, options, workers)
    return True


def draw(root: Path, options: Options, workers: int) -> None:
    """Fill a folder that has a marker and nothing else of a benchmark."""
    with (
        atomic_write(root / RAW) as raw_path,
        atomic_write(root / LEGEND) as legend_path,
        open(raw_path, "w", encoding="utf-8") as raw,
        open(legend_path, "w", encoding="utf-8") as legend,
    ):
        searched = stream(root, options, workers, raw, legend)
        write_json(root / MARKER, marker_of(options) | {"ceiling": ceilings_of(searched, options.pixels)}, indent=2)


def stream(root: Path, options: Options, workers: int, raw: TextIO, legend: TextIO) -> list[Drawn]:
    """Write both JSON files, one line per image or identity, as the results come in; returns those of val and test."""
    searched = []
    head = {"version": VERSION, "legend": {str(n): name for n, name in enumerate(ATTRIBUTES)}}
    legend.write(json.dumps(head)[:-1] + ', "identities": [\n')
    raw.write("[\n")
    comma = ""
    with tqdm(total=options.images, unit="image", desc="drawing") as bar:
        for entries, record in draw_all(root, options, workers):
            raw.write(comma + ",\n".join(json.dumps(entry) for entry in entries))
            legend.write(comma + json.dumps(record))
            if record["split"] in SEARCHED:
                searched.append((entries, record))
            comma = ",\n"
            bar.update(len(entries))
    raw.write("\n]\n")
    legend.write("\n]}\n")
    return searched


def keep_finished(root: Path, options: Options, overwrite: bool) -> bool:
    """Whether `root` holds a benchmark of these options that is to be kept; one of an earlier version gets its ceiling.

    Raises UserError when it holds anything that must not be replaced.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file; name a folder")
    if not holds_files(root):
        return False
    found = read_marker(root)
    if overwrite or not (root / RAW).exists():
        return False
    if not same_contents(found, options):
        raise UserError(
            f"{root} holds a finished benchmark made with other options; name another folder or add --overwrite"
        )
    add_ceiling(root, found, options)
    return True


def marker_of(options: Options) -> dict[str, Any]:
    """What synthetic.json says of a benchmark before it is drawn."""
    return {"made_by": MADE_BY, "version": VERSION, "options": options.as_dict()}


def add_ceiling(root: Path, marker: dict[str, Any], options: Options) -> None:
    """Give a finished benchmark of an earlier version its ceiling, where its files can be read and written."""
    if "ceiling" in marker:
        return
    try:
        of_identity: dict[int, list[dict[str, Any]]] = {}
        for entry in read_json(root / RAW, "annotation file"):
            of_identity.setdefault(entry["id"], []).append(entry)
        people = read_json(root / LEGEND, "attribute file")["identities"]
        searched = [(of_identity[person["id"]], person) for person in people if person["split"] in SEARCHED]
        write_json(root / MARKER, marker | {"ceiling": ceilings_of(searched, options.pixels)}, indent=2)
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        logger.warning("the ceiling of %s stays unknown (%s)", root, error)


def same_contents(marker: dict[str, Any], options: Options) -> bool:
    """Whether what `marker` stands for is what `options` give; those it lacks came later, with today's defaults."""
    made = marker.get("options")
    if marker.get("version") != VERSION or not isinstance(made, dict):
        return False
    return Options().as_dict() | made == options.as_dict()


def read_marker(root: Path) -> Any:
    """The marker of a folder that this program made; UserError for any other folder."""
    if not (root / MARKER).is_file():
        raise UserError(f"{root} is not empty and was not made by this program; name a new or an empty folder")
    marker = read_json(root / MARKER, "marker file")
    if not isinstance(marker, dict) or marker.get("made_by") != MADE_BY:
        raise UserError(f"{root / MARKER} was not written by this program; name a new or an empty folder")
    return marker


def clear(root: Path) -> None:
    """Remove what an earlier run wrote, and nothing else; reid_raw.json first, as it vouches for the rest."""
    try:
        for name in (RAW, LEGEND):
            (root / name).unlink(missing_ok=True)
            for left in root.glob(f".{name}.*.tmp"):
                left.unlink()
        for folder in ("imgs", "masks"):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(root / folder)
    except OSError as error:
        raise UserError(f"cannot clear the earlier benchmark in {root}: {error}") from error
    if (root / "processed_data").exists():
        logger.warning("%s is of the earlier benchmark; prepare it again", root / "processed_data")
