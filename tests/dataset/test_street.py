"""Drawn streets: boxes hold those who were drawn, files agree, and a street is never mixed with another."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from dataset.synthetic.street import files
from dataset.synthetic.street.__main__ import main
from dataset.synthetic.street.files import draw_street
from dataset.synthetic.street.scene import HORIZON, StreetOptions, Walk, draw_frame, walks_of
from utils.errors import UserError

SMALL = StreetOptions(people=6, cameras=2, frames=10, height=180, width=320, seconds=1.0)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    root = tmp_path_factory.mktemp("street") / "a"
    assert draw_street(root, SMALL)
    return root


def rows_of(root):
    with open(root / "boxes.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_box_holds_what_was_drawn_of_someone_and_nothing_else():
    """A frame with one walker differs from the one without in the box, and in the shadow at the feet."""
    options = StreetOptions(people=1, frames=1, height=240, width=320)
    walk = Walk(identity=1, track=1, begin=(0.5, 0.7), end=(0.5, 0.9), first=0, moments=4, phase=1.0)
    without, one = draw_frame(options, 1, 1, []), draw_frame(options, 1, 1, [walk])
    [seen] = one.seen
    left, top, right, bottom = seen.box
    changed = (np.asarray(one.image, int) - np.asarray(without.image, int)).__abs__().max(2) > 60
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert rows[0] == pytest.approx(top, abs=2) and columns[0] >= left - 2 and columns[-1] <= right + 2
    assert rows[-1] <= bottom + 4
    assert seen.visible == 1 and seen.walk.view == "front"
    assert 0.4 * (bottom - top) * (right - left) < sum(seen.pixels.values()) < (bottom - top) * (right - left)


def test_who_is_nearer_is_larger_and_hides_who_is_behind():
    options = StreetOptions(people=2, frames=1, height=240, width=320)
    far, near = (
        Walk(identity, identity, begin=(0.5, depth), end=(0.51, depth), first=0, moments=4, phase=1.0)
        for identity, depth in ((1, 0.6), (2, 0.75))
    )
    behind, front = draw_frame(options, 1, 1, [near, far]).seen
    assert (behind.walk, front.walk) == (far, near)
    assert front.visible == 1 and 0 < behind.visible < 0.8
    assert front.box[3] - front.box[1] > behind.box[3] - behind.box[1] and behind.box[3] > HORIZON * 240


def test_everybody_passes_every_camera_once():
    walks = [walk for camera in (1, 2) for walk in walks_of(SMALL, camera)]
    assert [walk.identity for walk in walks] == 2 * list(range(1, 7))
    assert [walk.track for walk in walks] == list(range(1, 13))
    assert all(any(walk.feet(frame) for frame in range(SMALL.frames)) for walk in walks)


def test_all_forms_say_the_same(street):
    rows = rows_of(street)
    assert len({row["image"] for row in rows}) > 10 and {row["camera"] for row in rows} == {"1", "2"}
    boxes = [tuple(float(row[name]) for name in ("left", "top", "width", "height")) for row in rows]
    for row, (left, top, width, height) in zip(rows, boxes, strict=True):
        with Image.open(street / "frames" / row["image"]) as frame:
            assert 0 <= left < left + width <= frame.width == 320 and 0 <= top < top + height <= frame.height == 180
        assert float(row["second"]) == int(row["frame"]) - 1
    mot = [
        line.split(",") for camera in (1, 2) for line in (street / f"mot/camera_{camera}.txt").read_text().split("\n")
    ]
    assert [tuple(map(float, cells[2:6])) for cells in mot if len(cells) == 9] == boxes
    coco = json.loads((street / "coco.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    assert len(names) == 20
    found = [(names[one["image_id"]], tuple(one["bbox"]), str(one["track_id"])) for one in coco["annotations"]]
    assert found == [(row["image"], box, row["track"]) for row, box in zip(rows, boxes, strict=True)]
    people = json.loads((street / "people.json").read_text())
    assert {track for one in people for track in one["tracks"]} == {int(row["track"]) for row in rows}
    for one in people:
        assert len(one["captions"]) == 2 and one["described"]["track"] in one["tracks"]
        assert any(row["image"] == one["described"]["image"] for row in rows)


def test_nobody_has_a_track_on_which_they_are_never_seen(tmp_path):
    """In one frame, someone may be hidden, or begin beside it."""
    options = StreetOptions(people=12, frames=1, height=120, width=200)
    draw_street(tmp_path, options)
    seen = {int(row["track"]) for row in rows_of(tmp_path)}
    people = json.loads((tmp_path / "people.json").read_text())
    assert {track for one in people for track in one["tracks"]} == seen and len(seen) < 24


def test_processes_draw_the_same(street, tmp_path):
    draw_street(tmp_path / "b", SMALL, workers=2)
    files = sorted(path.relative_to(street) for path in street.rglob("*") if path.is_file())
    assert len(files) == 20 + 7  # the lock among them
    assert all((street / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_a_street_is_drawn_once_begun_anew_when_interrupted_and_never_over_something_else(street, tmp_path, capsys):
    assert not draw_street(street, SMALL)
    with pytest.raises(UserError, match="drawn with other options"):
        draw_street(street, StreetOptions(people=7))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not made by this program"):
        draw_street(tmp_path, SMALL)
    given = ["--people", "2", "--cameras", "1", "--frames", "3", "--size", "120x160", "--workers", "1"]
    main([str(tmp_path / "c"), *given])
    marker = tmp_path / "c" / "street.json"
    marker.write_text(marker.read_text().replace('"finished": true', '"finished": false'))
    (tmp_path / "c" / "frames" / "left.jpg").write_text("of an interrupted run")
    main([str(tmp_path / "c"), *given])
    assert not (tmp_path / "c" / "frames" / "left.jpg").exists()
    main([str(tmp_path / "c"), *given])
    assert "nothing to do" in capsys.readouterr().out


def test_two_processes_do_not_draw_into_one_folder(tmp_path, monkeypatch):
    draw, told = files.draw_frame, []

    def draw_while_another_one_starts(options, *which):
        with pytest.raises(UserError) as refused:
            draw_street(tmp_path / "d", StreetOptions(people=7))
        told.append(str(refused.value))
        return draw(options, *which)

    monkeypatch.setattr(files, "draw_frame", draw_while_another_one_starts)
    assert draw_street(tmp_path / "d", SMALL)
    assert len(told) == 20 and "is in use by process" in told[0]


@pytest.mark.parametrize("marked", [True, False])
def test_what_an_interrupted_run_left_is_not_part_of_the_next(tmp_path, marked):
    (tmp_path / "e" / "mot").mkdir(parents=True)
    (tmp_path / "e" / ".lock").touch()
    if marked:
        (tmp_path / "e" / "mot" / "camera_9.txt").touch()
        (tmp_path / "e" / "street.json").write_text('{"made_by": "dataset.synthetic.street", "finished": false}')
    else:
        (tmp_path / "e" / "mot").rmdir()
    assert draw_street(tmp_path / "e", SMALL)
    assert [path.name for path in sorted((tmp_path / "e" / "mot").iterdir())] == ["camera_1.txt", "camera_2.txt"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--people", "0"], "people is 0; choose a number from 1 to 10000"),
        (["--seconds", "0"], "seconds is 0.0; choose a number from 0.01 to 3600"),
        (["--size", "9x9"], "height is 9; choose a number from 96 to 2160"),
        (["--size", "big"], "size 'big' is not understood"),
        (["--seed", "-1"], "seed is -1"),
        (["--workers", "0"], "workers is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, given, told):
    with pytest.raises(UserError, match=told):
        main([str(tmp_path / "street"), *given])
    assert not (tmp_path / "street").exists()
