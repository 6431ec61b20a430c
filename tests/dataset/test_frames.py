"""Releases of person search with captions, made of a few frames: persons are cut out while they are prepared."""

import json
import sys

import numpy as np
import pytest
from in_process import call
from PIL import Image

from dataset.digests import blake2_of, read_digests
from dataset.prepare import main

scipy_io = pytest.importorskip("scipy.io", reason="the package scipy reads and writes files of MATLAB")

SIZE = (60, 40)
# frame -> rows of identity, left, top, width, height
PRW = {
    "c1s1_000001": [[1, 2, 3, 10, 20], [-2, 30.2, 5.5, 9.1, 18], [2, -1.7, 10, 12, 24]],
    "c1s1_000002": [[2, 5, 5, 10, 20]],
    "c2s1_000003": [[3, 4, 4, 10, 20], [1, 20, 4, 10, 20], [-2, 40, 4, 10, 20]],
    "c2s1_000004": [[3, 8, 8, 10, 20]],
    "c2s1_000005": [],
}
TRAIN = ["c1s1_000001", "c1s1_000002"]
TEST = ["c2s1_000003", "c2s1_000004", "c2s1_000005"]


def draw_frame(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


def describe(identity, frame, *captions):
    return {"id": identity, "pic_path": f"{frame}.jpg", "desrciption": list(captions)}


class Release:
    """A folder with a data set; `captions` by split can be changed before it is run."""

    def __init__(self, name, root):
        self.name, self.root = name, root
        self.captions = {}

    def run(self, *options):
        for split, entries in self.captions.items():
            (self.root / f"{self.name}_{split}").write_text(json.dumps(entries))
        return call(main, self.name, self.root, *options)

    def fails(self, *options):
        ending = self.run(*options)
        assert ending.code == 2 and "Traceback" not in ending.errors, ending
        assert not (self.root / "processed_data").exists() and not (self.root / "crops").exists()
        return ending.errors

    def prepared(self, split, folder="processed_data"):
        return json.loads((self.root / folder / f"{split}.json").read_text())


class Prw(Release):
    def __init__(self, root):
        super().__init__("PRW-TBPS", root)
        (root / "annotations").mkdir()
        for seed, (frame, rows) in enumerate(PRW.items()):
            draw_frame(root / "frames" / f"{frame}.jpg", seed)
            self.put_boxes(frame, rows)
        for split, frames in (("train", TRAIN), ("test", TEST)):
            cells = np.array([[frame] for frame in frames], dtype=object)
            scipy_io.savemat(root / f"frame_{split}.mat", {f"img_index_{split}": cells})
        self.captions["train"] = [
            describe(1, "c1s1_000001", "A man in a red coat with a bag."),
            describe(2, "c1s1_000001", "A woman in blue jeans and a hat."),
            describe(2, "c1s1_000002", "She walks in a hat and blue jeans."),
        ]
        self.captions["test"] = [describe(3, "c2s1_000003", "A boy with a green bag.", "A child in shorts.")]

    def put_boxes(self, frame, rows, name="box_new"):
        boxes = np.array(rows, dtype=float).reshape(-1, 5)
        scipy_io.savemat(self.root / "annotations" / f"{frame}.jpg.mat", {name: boxes}, appendmat=False)


def structures(rows, *fields):
    """A 1 x N array of structures."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in fields])
    for index, row in enumerate(rows):
        array[0, index] = row
    return array


class Sysu(Release):
    BOXES = {
        "s1.jpg": [[1, 2, 10, 20], [20, 2, 10, 20]],
        "s2.jpg": [[3, 3, 10, 20], [0, 0, 0, 7]],
        "s3.jpg": [[4, 4, 10, 20], [30, 4, 10, 20]],
        "s4.jpg": [[5, 5, 10, 20]],
    }
    PERSONS = {"p7": [("s1.jpg", 0), ("s2.jpg", 0)], "p8": [("s3.jpg", 0), ("s4.jpg", 0)]}

    def __init__(self, root):
        super().__init__("CUHK-SYSU-TBPS", root)
        (root / "annotation").mkdir()
        for seed, frame in enumerate(self.BOXES):
            draw_frame(root / "Image" / "SSM" / frame, seed)
        self.put(self.BOXES)
        self.captions["train"] = [
            describe(7, "s1", "A man in a red coat with a bag.", "", "He has a bag and a coat."),
            describe(7, "s2", "A man in a coat.", "He walks with a red bag."),
        ]
        entry = {"id": 8, "pic_path": "s3.jpg", "description": ["A boy with a green bag.", "A child in shorts."]}
        self.captions["test"] = [entry]

    def put(self, boxes):
        images = [
            (name, len(found), structures([(np.array([box]), 0) for box in found], "idlocate", "ishard"))
            for name, found in boxes.items()
        ]
        persons = [
            (
                name,
                len(scenes),
                structures([(f, np.array([self.BOXES[f][n]]), 0) for f, n in scenes], "imname", "idlocate", "ishard"),
            )
            for name, scenes in self.PERSONS.items()
        ]
        folder = self.root / "annotation"
        scipy_io.savemat(folder / "Images.mat", {"Img": structures(images, "imname", "nAppear", "box")})
        scipy_io.savemat(folder / "Person.mat", {"Person": structures(persons, "idname", "nAppear", "scene")})
        scipy_io.savemat(folder / "pool.mat", {"pool": np.array([["s3.jpg"], ["s4.jpg"]], dtype=object)})


@pytest.fixture
def prw(tmp_path):
    return Prw(tmp_path)


@pytest.fixture
def sysu(tmp_path):
    return Sysu(tmp_path)


def listed(entries):
    return [(entry["file_path"], entry["id"], len(entry["captions"])) for entry in entries]


def test_prw_has_a_crop_for_each_box_and_its_splits(prw):
    ending = prw.run()
    assert ending.code == 0, ending.errors
    assert listed(prw.prepared("train")) == [
        ("train/c1s1_000001_01.png", 1, 1),  # box 2 is nobody with captions
        ("train/c1s1_000001_03.png", 2, 1),
        ("train/c1s1_000002_01.png", 2, 1),
    ]
    assert listed(prw.prepared("test")) == [
        ("test/c2s1_000003_01.png", 3, 2),
        ("test/c2s1_000003_02.png", -2, 0),  # a person of the training split, whom no test caption describes
        ("test/c2s1_000003_03.png", -2, 0),
        ("test/c2s1_000004_01.png", 3, 0),
    ]
    assert f"persons: {prw.root}/crops, the image root of all splits (7 cut out now)" in ending.output
    with Image.open(prw.root / "frames/c2s1_000003.jpg") as frame:
        expected = frame.crop((4, 4, 14, 24))
    with Image.open(prw.root / "crops/test/c2s1_000003_01.png") as crop:
        assert np.array_equal(crop, expected)
    with Image.open(prw.root / "crops/train/c1s1_000001_03.png") as crop:
        assert crop.size == (11, 24)  # 1.7 pixels stick out on the left
    digests = read_digests(prw.root / "processed_data/test.json")
    assert len(digests) == 7
    assert all(digest == blake2_of((prw.root / "crops" / crop).read_bytes()) for crop, digest in digests.items())


def test_cuhk_sysu_has_captions_by_frame_and_identity(sysu):
    assert sysu.run().code == 0
    assert listed(sysu.prepared("train")) == [("train/s1_01.png", 7, 2), ("train/s2_01.png", 7, 2)]
    assert listed(sysu.prepared("test")) == [
        ("test/s3_01.png", 8, 2),
        ("test/s3_02.png", -2, 0),
        ("test/s4_01.png", 8, 0),
    ]


def test_a_second_call_cuts_nothing_and_a_resumed_one_what_is_missing_or_changed(prw):
    prw.run()
    crops = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in prw.root.glob("crops/*/*.png")}
    before = (prw.root / "processed_data/image_digests.json").read_text()
    assert "(0 cut out now)" in prw.run().output
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in crops} == crops
    missing, cut_off, other, *_ = sorted(crops)
    missing.unlink()
    cut_off.write_bytes(crops[cut_off][0][:-20])
    Image.new("RGB", (3, 3)).save(other)
    assert "(3 cut out now)" in prw.run().output
    assert {path: path.read_bytes() for path in crops} == {path: content for path, (content, _) in crops.items()}
    assert json.loads(before) == json.loads((prw.root / "processed_data/image_digests.json").read_text())
    prw.put_boxes("c2s1_000004", [[3, 9, 8, 10, 20]])
    assert "(1 cut out now)" in prw.run().output
    draw_frame(prw.root / "frames" / "c1s1_000001.jpg", 99)
    assert "(2 cut out now)" in prw.run().output


def test_results_and_crops_go_to_another_folder(prw, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    assert prw.run("--output", str(output)).code == 0
    assert len(list(output.glob("crops/*/*.png"))) == 7 and (output / "train.json").exists()
    assert not (prw.root / "crops").exists() and not (prw.root / "processed_data").exists()


@pytest.mark.parametrize("name", ["anno_file", "anno_previous"])
def test_boxes_of_prw_under_their_other_names(prw, name):
    prw.put_boxes("c1s1_000002", PRW["c1s1_000002"], name)
    assert prw.run().code == 0
    assert len(prw.prepared("train")) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([3, 100, 8, 10, 20], "box [100, 8, 10, 20] lies outside its frame of 60 x 40 pixels (c2s1_000004.jpg)"),
        ([3, -7, 8, 10, 20], "has less than 50% of its area within its frame of 60 x 40"),
        ([3, 8, 35, 10, 20], "has less than 50% of its area within its frame of 60 x 40"),
        ([3, 8, 8, 0, 20], "c2s1_000004.jpg, box 1: has no area: width 0, height 20"),
        ([3, 8, 8, 10, -20], "has no area: width 10, height -20"),
        ([3, np.nan, 8, 10, 20], "must be four numbers, found [nan, 8.0, 10.0, 20.0]"),
        ([3, 8, 8, np.inf, 20], "must be four numbers, found [8.0, 8.0, inf, 20.0]"),
        ([2.5, 8, 8, 10, 20], "its identity 2.5 is neither a whole number above 0 nor -2"),
        ([np.nan, 8, 8, 10, 20], "its identity nan is neither"),
        ([0, 8, 8, 10, 20], "its identity 0 is neither"),
    ],
)
def test_wrong_boxes_are_problems(prw, row, said):
    prw.put_boxes("c2s1_000004", [row])
    assert said in prw.fails()


def test_all_problems_are_listed_at_once(prw):
    prw.put_boxes("c2s1_000004", [[3, 90, 8, 10, 20]])
    (prw.root / "frames" / "c1s1_000002.jpg").unlink()
    (prw.root / "annotations" / "c2s1_000005.jpg.mat").write_bytes(b"no file of MATLAB, whatever its name says" * 9)
    content = (prw.root / "frames" / "c1s1_000001.jpg").read_bytes()
    (prw.root / "frames" / "c1s1_000001.jpg").write_bytes(content[: len(content) // 2])
    prw.captions["test"] += [
        describe(4, "c2s1_000003", "A girl in a white dress."),
        describe(3, "c2s1_000003", "A boy in shorts again."),
        {"id": "x", "pic_path": "../a.jpg", "desrciption": "a man"},
        {"id": 9, "pic_path": "c2s1_000003.jpg"},
    ]
    errors = prw.fails()
    assert "PRW-TBPS_test, entry 2 (c2s1_000003.jpg): no box of c2s1_000003.jpg has the identity 4" in errors
    assert "entry 3 (c2s1_000003.jpg): the person is already in PRW-TBPS_test, entry 1" in errors
    assert "entry 4 (../a.jpg): the image path '../a.jpg' leaves the image folder" in errors
    assert "entry 4 (../a.jpg): 'desrciption' must be a list of strings" in errors
    assert "entry 5 (c2s1_000003.jpg): has no 'desrciption'" in errors
    assert "frames/c1s1_000002.jpg: no such file" in errors
    assert "c1s1_000001.jpg is truncated" in errors or "c1s1_000001.jpg is damaged" in errors
    assert "cannot be read as a file of MATLAB" in errors and "lies outside its frame" in errors


def test_training_persons_must_be_described(prw):
    del prw.captions["train"][2]
    assert "c1s1_000002.jpg, box 1: has no captions" in prw.fails()


def test_a_training_person_with_test_captions_is_in_two_splits(prw):
    prw.captions["test"].append(describe(1, "c2s1_000003", "A man in a red coat with a bag."))
    assert "identity in several splits" in prw.fails()


def test_missing_files_are_named_with_what_they_are_for(prw, sysu, tmp_path_factory):
    (prw.root / "frame_test.mat").unlink()
    assert "has no frame_test.mat; PRW-TBPS needs" in prw.fails()
    (sysu.root / "annotation" / "pool.mat").unlink()
    assert "has no annotation/pool.mat; CUHK-SYSU-TBPS needs" in sysu.fails()
    assert "PRW-TBPS_train does not exist" in call(main, "PRW-TBPS", tmp_path_factory.mktemp("empty")).errors


def test_files_of_matlab_with_something_else_are_refused(prw, sysu):
    scipy_io.savemat(prw.root / "frame_test.mat", {"img_index_test": np.eye(3)})
    assert "frame_test.mat must hold img_index_test, a list of names of frames" in prw.fails()
    scipy_io.savemat(sysu.root / "annotation" / "Person.mat", {"Person": np.eye(3)})
    assert "Person.mat must hold Person, structures with idname and scene" in sysu.fails()


def test_boxes_of_a_person_must_be_in_their_frame(sysu):
    sysu.put({**sysu.BOXES, "s4.jpg": [[6, 5, 10, 20]]})
    assert "Person.mat, person 8: its box [5.0, 5.0, 10.0, 20.0] is not among those of s4.jpg" in sysu.fails()


def test_frames_cannot_be_skipped(prw):
    assert "--skip_images cannot be used with PRW-TBPS" in prw.fails("--skip_images")


def test_scipy_is_asked_for_where_it_is_missing(prw, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert "frame_train.mat is a file of MATLAB, which the package scipy reads: pip install scipy" in prw.fails()
