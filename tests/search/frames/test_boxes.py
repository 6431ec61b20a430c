"""Who is in which frame: three forms of boxes, and every way in which they can be wrong."""

import json
from pathlib import Path

import pytest

from search.files.crops import crop_name, file_and_box, lies_below
from search.files.images import LocalImages
from search.frames.boxes import read_people
from utils.errors import UserError

IMAGES = ["a/000001.jpg", "a/000002.jpg", "b/img1/000007.jpg"]


def read(folder: Path, name: str, text: str, images=IMAGES):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return read_people([path], images, LocalImages(folder))


@pytest.mark.parametrize(
    ("box", "name"),
    [
        ((3, 4, 10, 20), "f.jpg#3,4,10,20"),
        ((3.2, 4.9, 10, 20), "f.jpg#3,4,11,21"),  # all pixels that it touches
        ((-2.5, -4, 10, 20), "f.jpg#-3,-4,11,20"),
        ((0.5, 0.5, 0.1, 0.1), "f.jpg#0,0,1,1"),
        ((1, 1, 1e-20, 2), "f.jpg#1,1,1,2"),
    ],
)
def test_a_person_is_named_by_frame_and_whole_pixels(box, name):
    assert crop_name("f.jpg", box) == name
    file, pixels = file_and_box(name)
    assert file == "f.jpg" and crop_name(file, pixels) == name


@pytest.mark.parametrize("name", ["f.jpg", "a#b.jpg", "f.jpg#1,2,3", "f.jpg#1,2,0,4", "#1,2,3,4"])
def test_other_names_are_files(name):
    assert file_and_box(name) == (name, None)


def test_people_lie_below_their_frame_and_its_folder():
    assert all(lies_below("a/f.jpg#1,2,3,4", inside) for inside in ("a/f.jpg#1,2,3,4", "a/f.jpg", "a"))
    assert not lies_below("a/f.jpg2", "a/f.jpg") and not lies_below("ab/f.jpg", "a")
    assert not lies_below("a#old/f.jpg", "a") and not lies_below("a#b.jpg", "a")  # others that have such names


def test_a_table_has_boxes_and_metadata(tmp_path):
    text = "image;track;left;top;width;height;note\na/000001.jpg;5;1;2;3;4;red\n./a/000001.jpg;6;1.5;2;3;4;\n"
    found = read(tmp_path, "boxes.csv", text)
    assert found == {
        "a/000001.jpg": {
            "a/000001.jpg#1,2,3,4": {"track": 5, "note": "red"},
            "a/000001.jpg#1,2,4,4": {"track": 6},
        }
    }


def test_columns_of_a_table_have_the_form_of_names_in_filters(tmp_path):
    found = read(tmp_path, "boxes.csv", "image,left,top,width,height,Ka\u0308fig\na/000001.jpg,1,2,3,4,red\n")
    assert found["a/000001.jpg"] == {"a/000001.jpg#1,2,3,4": {"K\u00e4fig": "red"}}


def coco(**changes) -> str:
    content = {
        "images": [{"id": 9, "file_name": "a/000002.jpg"}],
        "annotations": [
            {"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], "track_id": 8, "score": 0.5, "iscrowd": 0},
            {"image_id": 9, "category_id": 2, "bbox": [5, 5, 5, 5]},
            {"image_id": 9, "category_id": 1, "bbox": [0, 0, 90, 90], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "dog"}],
    }
    return json.dumps({**content, **changes})


def annotated(**values) -> str:
    """One annotation with such values."""
    return coco(annotations=[{"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], **values}])


def test_tracks_of_which_one_is_text_are_all_text(tmp_path):
    one = {"image_id": 9, "category_id": 1}
    people = [{**one, "bbox": [left, 2, 3, 4], "track_id": track} for left, track in enumerate((3, "b"))]
    found = read(tmp_path, "boxes.json", coco(annotations=people))
    assert [one["track"] for one in found["a/000002.jpg"].values()] == ["3", "b"]


def test_sequences_are_found_through_links_and_folders_of_one_name_are_told(tmp_path):
    (tmp_path / "b" / "gt").mkdir(parents=True)
    (tmp_path / "b" / "img1").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "gt" / "gt.txt").write_text("7,1,1,2,3,4\n")
    assert read_people([tmp_path / "link" / "gt" / "gt.txt"], IMAGES, LocalImages(tmp_path))
    with pytest.raises(UserError, match=r"which images is it of. There are x/a and y/a"):
        read(tmp_path, "a.txt", "1,1,1,2,3,4\n", ["x/a/1.jpg", "y/a/1.jpg"])
    with pytest.raises(UserError, match=r"which image is frame 1. There are a/1.jpg and a/left_1.jpg"):
        read(tmp_path, "a.txt", "1,1,1,2,3,4\n", ["a/1.jpg", "a/left_1.jpg"])


def test_coco_has_the_persons_of_its_images(tmp_path):
    found = read(tmp_path, "boxes.json", coco())
    assert found == {"a/000002.jpg": {"a/000002.jpg#1,2,3,4": {"track": 8, "score": 0.5}}}
    others = read(tmp_path, "boxes.json", coco(categories=[]))
    assert len(others["a/000002.jpg"]) == 2  # nothing says which of them are people


def test_mot_challenge_is_of_the_images_that_its_place_or_name_says(tmp_path):
    truth = "7,3,10,20,30,40,1,1,0.75\n7,4,10,20,31,40,0,1,1\n7,5,10,20,32,40,1,3,1\n"  # not counted; a car
    found = read(tmp_path, "b/gt/gt.txt", truth)
    assert found == {
        "b/img1/000007.jpg": {"b/img1/000007.jpg#10,20,30,40": {"track": 3, "camera": "b", "frame": 7, "visible": 0.75}}
    }
    detected = read(tmp_path, "a.txt", "2 -1 1 2 3 4 0.9 -1 -1 -1\n\n")
    assert detected == {"a/000002.jpg": {"a/000002.jpg#1,2,3,4": {"camera": "a", "frame": 2, "score": 0.9}}}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("boxes.xml", "", "must end in .csv, .json"),
        ("boxes.csv", "image,left,top,width\nx,1,2,3\n", "no column 'height'"),
        ("boxes.csv", "image,left,top,width,height\na.jpg,1,2,x,4\n", r"row 2: left, top, .* must be numbers"),
        ("boxes.csv", "image,left,top,width,height\na.jpg,1,2,0,4\n", r"row 2: \[1.0, 2.0, 0.0, 4.0\] is not a box"),
        ("boxes.csv", "image,left,top,width,height\na.jpg,1,2,nan,4\n", "row 2: .* is not a box"),
        ("boxes.csv", "image,left,top,width,height\na.jpg,1,2,1e300,4\n", "row 2: .* is not a box"),
        ("boxes.csv", "image,left,top,width,height\na.jpg,1,2,3,4\na.jpg,1.5,2,2,4\n", "row 3: .* as that of row 2"),
        ("boxes.csv", "image,left,top,width,height\n../a.jpg,1,2,3,4\n", "row 2: the image path"),
        ("boxes.csv", "image,left,top,width,height,path\na.jpg,1,2,3,4,5\n", "column 'path' must be renamed"),
        ("boxes.csv", "image,left,top,width,height\na.jpg,1,2,3\n", "row 2: has 4 cells"),
        ("boxes.json", "{", "is not valid JSON"),
        ("boxes.json", "[" * 100_000, "is not valid JSON"),
        ("boxes.json", coco(annotations=[{"image_id": [9], "category_id": 1}]), "annotation 1: there is no image"),
        (
            "boxes.json",
            coco(images=[{"id": {"a": 1}, "file_name": "a/000002.jpg"}]),
            "annotation 1: there is no image 9",
        ),
        ("boxes.json", annotated(bbox=[10**400, 1, 2, 3]), "annotation 1: left, top, .* must be numbers"),
        ("boxes.json", annotated(track_id="\ud800"), r"annotation 1: track is '\\ud800', which is no text of UTF-8"),
        ("boxes.json", annotated(track_id=10**30), "annotation 1: track is 1000.*, more than a number here can be"),
        ("boxes.json", annotated(score=float("nan")), "annotation 1: score is nan"),
        ("a.txt", "1,1,1,2,3,4,1,inf,1\n", "row 1: frame, track, left"),
        ("a.txt", "1.5,1,1,2,3,4\n", "row 1: frame, track, left"),
        ("a.txt", "1,9e25,1,2,3,4\n", "row 1: track is 9000.*, more than a number"),
        ("a.txt", "1,1,1,2,3,4,nan\n", "row 1: score is nan"),
        ("a.txt", "\n \n", "is empty"),
        ("boxes.json", "[]", "must hold images"),
        ("boxes.json", coco(annotations=3), "must hold annotations, a list"),
        ("boxes.json", coco(annotations=[{"image_id": 3, "category_id": 1}]), "annotation 1: there is no image 3"),
        ("boxes.json", coco(annotations=[{"image_id": 9, "category_id": 1}]), "annotation 1: left, top, .* numbers"),
        ("boxes.json", coco(images=[{"id": 9, "file_name": "/etc/x.jpg"}]), "annotation 1: there is no image"),
        ("a.txt", "1,2,3\n", "row 1: frame, track, left, top, width, height are expected"),
        ("a.txt", "9,1,1,2,3,4\n", "row 1: there is no image of frame 9"),
        ("a.txt", "1,1,x,2,3,4\n", "row 1: frame, track"),
        ("a.txt", "inf,1,1,2,3,4\n", "row 1: frame, track"),
        ("other.txt", "1,1,1,2,3,4\n", "which images is it of"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, name, text, told):
    with pytest.raises(UserError, match=told):
        read(tmp_path, name, text)


def test_two_files_do_not_name_the_same_person(tmp_path):
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("image,left,top,width,height\na/000001.jpg,1,2,3,4\n")
    with pytest.raises(UserError, match=r"two.csv: a/000001.jpg#1,2,3,4 is in an earlier file already"):
        read_people([tmp_path / "one.csv", tmp_path / "two.csv"], IMAGES, LocalImages(tmp_path))
