"""Persons are cut out of frames once, each to a whole file of its own."""

import json

import numpy as np
import pytest
from in_process import call
from PIL import Image

from dataset.annotation_entries import RawEntry
from dataset.annotation_formats import FORMATS, Format
from dataset.crops import box_fault, check_frames, cut_persons, pixels_of
from dataset.digests import blake2_of
from dataset.prepare import main
from utils.errors import UserError
from utils.files import temporary_beside

SIZE = (60, 40)
BOXES = {"a.jpg": [(2, 3, 10, 20), (30.2, 5.5, 9.1, 18), (-1.7, 10, 12, 24)], "cam/b.png": [(5, 5, 10, 20)]}


def draw_frames(folder):
    for seed, frame in enumerate(BOXES):
        path = folder / frame
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def persons(boxes=BOXES):
    return [
        RawEntry(f"{frame}, box {n}", "train", f"{frame[:-4]}_{n}.png", n, (f"A man in coat {n}.",), False, frame, box)
        for frame, found in boxes.items()
        for n, box in enumerate(found)
    ]


@pytest.fixture
def folders(tmp_path):
    return draw_frames(tmp_path / "frames"), tmp_path / "crops"


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_box_takes_every_pixel_that_it_touches():
    assert pixels_of((1.2, 2.9, 3.0, 4.0), SIZE) == (1, 2, 5, 7)
    assert pixels_of((-1.7, 30, 12, 20), SIZE) == (0, 30, 11, 40)
    assert pixels_of((59.9, 39.9, 0.05, 0.05), SIZE) == (59, 39, 60, 40)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((-5, 0, 10, 10), None),  # exactly half
        ((-5.1, 0, 10, 10), "has less than 50% of its area within its frame of 60 x 40 pixels"),
        ((50, 30, 20, 14), "has less than 50%"),
        ((60, 0, 10, 10), "lies outside its frame"),
        ((0, -10, 10, 10), "lies outside its frame"),
        ((1e300, 0, 1e300, 10), "lies outside its frame"),
        ((0, 0, 60, 40), None),
    ],
)
def test_a_box_lies_in_its_frame_by_half_at_least(box, said):
    fault = box_fault(box, SIZE)
    assert fault is None if said is None else said in fault


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_each_box_is_a_file_with_the_pixels_of_its_frame(folders, workers):
    frames, crops = folders
    found = check_frames(persons(), frames, crops, workers)
    assert found.problems == [] and found.digests == {} and len(found.uncut) == 4 and not crops.exists()
    digests = cut_persons(found.uncut, frames, crops, workers)
    assert digests == {name: blake2_of(content) for name, content in files(crops).items()}
    assert list(digests) == ["a_0.png", "a_1.png", "a_2.png", "cam/b_0.png"]
    for person in persons():
        with Image.open(frames / person.frame) as frame, Image.open(crops / person.image) as crop:
            assert np.array_equal(crop, frame.crop(pixels_of(person.box, SIZE)))


def test_only_what_is_missing_or_wrong_is_cut_again(folders):
    frames, crops = folders
    digests = cut_persons(persons(), frames, crops)
    again = check_frames(persons(), frames, crops)
    assert again.uncut == [] and again.digests == digests
    (crops / "a_0.png").unlink()
    (crops / "a_1.png").write_bytes((crops / "a_1.png").read_bytes()[:-9])
    moved = persons({**BOXES, "cam/b.png": [(6, 5, 10, 20)]})
    again = check_frames(moved, frames, crops)
    assert [person.image for person in again.uncut] == ["a_0.png", "a_1.png", "cam/b_0.png"]
    assert again.digests == {"a_2.png": digests["a_2.png"]}
    assert cut_persons(again.uncut, frames, crops)["a_1.png"] == digests["a_1.png"]


def test_what_a_killed_call_left_half_written_is_removed(folders, monkeypatch):
    frames, crops = folders
    (crops / "cam").mkdir(parents=True)
    with monkeypatch.context() as of_another:
        of_another.setattr("os.getpid", lambda: 2**22 + 1)  # beyond the numbers that Linux gives
        left = temporary_beside(crops / "cam" / "b_0.png")
    left.write_bytes(b"half")
    cut_persons(persons(), frames, crops)
    assert sorted(files(crops)) == ["a_0.png", "a_1.png", "a_2.png", "cam/b_0.png"]


def test_frames_that_cannot_be_read_are_problems_once(folders):
    frames, crops = folders
    content = (frames / "a.jpg").read_bytes()
    (frames / "a.jpg").write_bytes(content[: len(content) // 2])
    (frames / "cam/b.png").unlink()
    missing, damaged = check_frames(persons(), frames, crops).problems
    assert missing.what == f"{frames}/cam/b.png: no such file" and missing.where == "cam/b.png, box 0"
    assert damaged.what.startswith(f"{frames}/a.jpg is truncated") and damaged.where == "a.jpg, box 0"
    with pytest.raises(UserError, match=r"frame .*a\.jpg is truncated"):
        cut_persons(persons(), frames, crops)


def test_prepare_cuts_only_when_nothing_is_wrong(tmp_path, monkeypatch):
    root = draw_frames(tmp_path / "imgs").parent
    entries = persons()

    def read(path, split_required):
        return entries, []

    formats = (*FORMATS, Format("Framed", "all.txt", read, framed=True))
    for module in ("annotation_formats", "prepare"):
        monkeypatch.setattr(f"dataset.{module}.FORMATS", formats)
    (root / "all.txt").write_text("")
    entries = persons({**BOXES, "a.jpg": [(2, 3, 10, 20), (90, 5, 10, 20)]})
    ending = call(main, "framed", root)
    assert ending.code == 2 and "a.jpg, box 1: box [90, 5, 10, 20] lies outside its frame of 60 x 40" in ending.errors
    assert sorted(path.name for path in root.iterdir()) == ["all.txt", "imgs"]
    entries = persons()
    (root / "crops").write_text("in the way")
    assert "crops is not a folder" in call(main, "framed", root).errors
    (root / "crops").unlink()
    ending = call(main, "framed", root)
    assert ending.code == 0 and f"persons: {root}/crops" in ending.output
    written = json.loads((root / "processed_data" / "train.json").read_text())
    assert [entry["file_path"] for entry in written] == sorted(files(root / "crops"))
    assert call(main, "framed", root, "--skip-images").errors.startswith("error: --skip_images cannot be used with")
