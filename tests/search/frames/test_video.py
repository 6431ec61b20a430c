"""Frames of videos, written as images with what camera and second they are from."""

import csv

import numpy as np
import pytest
from in_process import call
from PIL import Image

from search.__main__ import main
from search.gallery.gallery import open_gallery

av = pytest.importorskip("av")
RATE = 5  # frames a second
SIZE = (64, 48)


def film(path, seconds, codec="mpeg4"):
    """A video whose frames are ever lighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(round(seconds * RATE)):
            pixels = np.full((SIZE[1], SIZE[0], 3), 10 + 4 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def table(folder):
    with open(folder / "frames.csv", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def frames(*arguments):
    return call(main, "frames", *arguments)


def test_frames_are_taken_at_the_seconds_that_are_asked_for(tmp_path):
    hall, output = film(tmp_path / "hall.mp4", 3), tmp_path / "frames"
    done = frames(hall, "--output", output)
    assert done.code == 0 and done.output.startswith("3 frames in ")
    assert table(output) == [
        ["image", "camera", "second"],
        ["hall/000001.jpg", "hall", "0.0"],
        ["hall/000006.jpg", "hall", "1.0"],
        ["hall/000011.jpg", "hall", "2.0"],
    ]
    for row in table(output)[1:]:
        picture = np.array(Image.open(output / row[0]))
        number = int(row[0][-10:-4])
        assert picture.shape == (SIZE[1], SIZE[0], 3) and abs(picture.mean() - (10 + 4 * (number - 1))) < 3
    assert frames(hall, "--output", tmp_path / "all", "--every", 0).output.startswith("15 frames")
    assert frames(hall, "--output", tmp_path / "few", "--every", 0.4).output.startswith("8 frames")


def test_what_is_there_is_kept_and_another_video_comes_beside_it(tmp_path):
    hall, output = film(tmp_path / "hall.mp4", 2), tmp_path / "frames"
    frames(hall, "--output", output)
    kept = (output / "hall" / "000001.jpg").stat().st_mtime_ns
    assert frames(hall, film(tmp_path / "door.mkv", 1), "--output", output).code == 0
    assert (output / "hall" / "000001.jpg").stat().st_mtime_ns == kept
    assert frames(tmp_path / "door.mkv", "--output", output).code == 0
    assert sorted(row[0] for row in table(output)[1:]) == ["door/000001.jpg", "hall/000001.jpg", "hall/000006.jpg"]
    again = frames(hall, "--output", output, "--every", 0.5)
    assert again.code == 2 and "holds something else than these frames" in again.errors
    assert len(table(output)) == 4


def test_a_video_that_breaks_off_gives_what_is_before(tmp_path):
    hall = film(tmp_path / "hall.ts", 6)
    content = hall.read_bytes()
    hall.write_bytes(content[: len(content) // 2])
    done = frames(hall, "--output", tmp_path / "frames")
    assert done.code == 0 and 1 < len(table(tmp_path / "frames")) < 7


def test_the_picture_of_a_phone_is_upright(tmp_path, monkeypatch):
    from search.frames import video

    hall = film(tmp_path / "hall.mp4", 1)
    monkeypatch.setattr(video, "rotation_of", lambda frame: -90)
    frames(hall, "--output", tmp_path / "frames")
    assert Image.open(tmp_path / "frames" / "hall" / "000001.jpg").size == (SIZE[1], SIZE[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none.mp4", "does not exist"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: written(folder / "text.mp4", b"not a video"), "cannot be read as a video"),
        (lambda folder: written(folder / "empty.mp4", b""), "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_told_before_anything_is_written(tmp_path, make, words):
    told = frames(film(tmp_path / "hall.mp4", 1), make(tmp_path), "--output", tmp_path / "frames")
    assert told.code == 2 and words in told.errors and not (tmp_path / "frames").exists()


def written(path, content):
    path.write_bytes(content)
    return path


def test_other_arguments_that_cannot_be_are_told(tmp_path):
    hall = film(tmp_path / "hall.mp4", 1)
    (tmp_path / "b").mkdir()
    twice = frames(hall, film(tmp_path / "b" / "hall.mkv", 1), "--output", tmp_path / "frames")
    assert twice.code == 2 and "two videos are called hall" in twice.errors
    for every in ("-1", "nan"):
        told = frames(hall, "--output", tmp_path / "frames", f"--every={every}")
        assert told.code == 2 and "--every" in told.errors


def test_people_in_frames_have_the_camera_and_second_of_their_frame(encoder, trained, tmp_path):
    frames(film(tmp_path / "hall.mp4", 2), "--output", tmp_path / "frames")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,left,top,width,height,track\nhall/000006.jpg,4,4,16,32,7\nhall/000001.jpg,4,4,16,32,7\n")
    gallery = ("--gallery", tmp_path / "gallery", "--checkpoint", trained)
    told = call(
        main, "index", tmp_path / "frames", *gallery, "--boxes", boxes, "--metadata", tmp_path / "frames/frames.csv"
    )
    assert told.code == 0, told.errors
    with open_gallery(str(tmp_path / "gallery"), encoder) as opened:
        known = {path: dict(image.metadata) for path, image in opened.records.by_path.items()}
    assert known == {
        "hall/000001.jpg#4,4,16,32": {"camera": "hall", "second": 0.0, "track": 7},
        "hall/000006.jpg#4,4,16,32": {"camera": "hall", "second": 1.0, "track": 7},
    }
