"""Images without captions are in the gallery of val and test, and nowhere else."""

import json

import pytest

from dataset.annotations import Entry, load_annotations
from dataset.evaluation_split import make_split
from dataset.prepare import main
from dataset.tokens import CaptionTokenizer
from utils.errors import UserError

CAPTION = "a man in a red coat"
ENTRIES = [
    {"file_path": "a.png", "id": 1, "captions": [CAPTION]},
    {"file_path": "b.png", "id": 2, "captions": []},
    {"file_path": "c.png", "id": 1, "captions": []},
]
ROWS = f"image,identity,caption\na.png,1,{CAPTION}\nb.png,2,\nc.png,1,\n"


@pytest.fixture(params=["own.json", "own.csv"])
def file(request, tmp_path):
    path = tmp_path / request.param
    path.write_text(json.dumps(ENTRIES) if path.suffix == ".json" else ROWS)
    return path


@pytest.mark.parametrize("split", ["val", "test"])
def test_they_are_in_the_gallery_of_an_evaluation(file, split):
    entries = load_annotations(file, split)
    assert [(entry.image, len(entry.captions)) for entry in entries] == [("a.png", 1), ("b.png", 0), ("c.png", 0)]
    made = make_split(entries, file.parent, CaptionTokenizer.train([CAPTION], 100, 1), 20)
    assert made.images == ["a.png", "b.png", "c.png"] and made.texts == [CAPTION]
    assert made.image_identity.tolist() == [0, 1, 0] and made.caption_image.tolist() == [0]


@pytest.mark.parametrize("split", ["train", None])
def test_training_images_must_have_captions(file, split):
    with pytest.raises(UserError, match=r"\(b\.png\): has no captions, which only gallery images .*1 more problem\)"):
        load_annotations(file, split)


def test_only_rows_of_the_training_split_must_have_captions_in_a_file_of_all(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(f"image,identity,caption,split\na.png,1,{CAPTION},train\nb.png,2,,test\nc.png,3,{CAPTION},test\n")
    assert load_annotations(path, "train") == [Entry("a.png", "1", (CAPTION,))]
    assert load_annotations(path, "test")[0] == Entry("b.png", "2", ())
    path.write_text(f"image,identity,caption,split\na.png,1,,train\nc.png,3,{CAPTION},test\n")
    for split in ("train", "test"):
        with pytest.raises(UserError, match=r"row 2 \(a\.png\): has no captions"):
            load_annotations(path, split)


def test_an_empty_cell_beside_a_caption_of_the_same_image_is_a_mistake(tmp_path):
    (tmp_path / "own.csv").write_text(f"image,identity,caption\na.png,1,{CAPTION}\na.png,1,\n")
    with pytest.raises(UserError, match=r"row 3: the caption is empty, but row 2 \(a\.png\) has one"):
        load_annotations(tmp_path / "own.csv", "test")


@pytest.mark.parametrize("caption", ["...", " ?! "])
def test_punctuation_is_still_no_caption(tmp_path, caption):
    (tmp_path / "own.csv").write_text(f"image,identity,caption\na.png,1,{caption}\n")
    with pytest.raises(UserError, match="the caption has no words"):
        load_annotations(tmp_path / "own.csv", "test")


def test_preparation_keeps_them(tmp_path):
    rows = f"image,identity,caption,split\na.png,1,{CAPTION},train\nb.png,2,,test\nc.png,3,{CAPTION},test\n"
    (tmp_path / "annotations.csv").write_text(rows)
    assert main(["CSV", str(tmp_path), "--skip_images"]) == 0
    assert load_annotations(tmp_path / "processed_data/test.json", "test")[0] == Entry("b.png", "2", ())
    (tmp_path / "annotations.csv").write_text(rows.replace(f"{CAPTION},train", ",train"))
    with pytest.raises(UserError, match="1 problem in"):
        main(["CSV", str(tmp_path), "--skip_images"])
