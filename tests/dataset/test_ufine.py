"""UFine6926 and UFine3C, whose releases say what an entry is and not the name of their file."""

import json

import pytest
from PIL import Image

from dataset.prepare import main
from utils.errors import UserError


def entry(number, split, **more):
    captions = [f"A woman of middle age in coat {number}.", f"She carries bag {number} on her back."]
    return {"split": split, "id": number, "file_path": f"images/{number}.jpg", "captions": captions, **more}


@pytest.fixture
def release(tmp_path):
    images = tmp_path / "UFine6926" / "images"
    images.mkdir(parents=True)
    for number in (1, 2, 3):
        Image.new("RGB", (8, 16), (number * 40, 0, 0)).save(images / f"{number}.jpg")
    return images.parent


def written(release, split):
    return json.loads((release / "processed_data" / f"{split}.json").read_text())


@pytest.mark.parametrize("file", ["annotations.json", "UFine 6926.json"])
def test_its_only_json_file_is_read_and_images_lie_beside_it(release, file):
    (release / file).write_text(json.dumps([entry(1, "train"), entry(2, "train"), entry(3, "test")]))
    assert main(["ufine6926", str(release)]) == 0
    assert written(release, "train") == [entry(1, "train"), entry(2, "train")]
    assert written(release, "test") == [entry(3, "test")]
    assert main(["UFine-6926", str(release)]) == 0  # its own results are not in the way


def test_what_macos_leaves_beside_its_file_is_no_second_one(release):
    (release / "._all.json").write_bytes(b"\0\5\x16\7")
    with pytest.raises(UserError, match=r"\*\.json does not exist"):
        main(["UFine6926", str(release)])
    (release / "all.json").write_text(json.dumps([entry(1, "train"), entry(2, "test")]))
    assert main(["UFine6926", str(release)]) == 0
    assert written(release, "train") == [entry(1, "train")]


@pytest.mark.parametrize("file", ["train.json", "test.json", "image_digests.json"])
def test_its_own_file_is_never_replaced_by_a_result(release, file):
    (release / file).write_text(content := json.dumps([entry(1, "train"), entry(2, "test")]))
    with pytest.raises(UserError, match="is the annotation file, and a result would replace it; name another"):
        main(["UFine6926", str(release), "--output", str(release / "images" / "..")])
    assert (release / file).read_text() == content
    assert main(["UFine6926", str(release)]) == 0


def test_the_evaluation_set_has_a_test_split_alone(release, capsys):
    (release / "all.json").write_text(json.dumps([entry(2, "test", source="UFine6926"), entry(3, "test", source="x")]))
    assert main(["UFine3C", str(release)]) == 0
    assert written(release, "train") == [] and written(release, "test") == [entry(2, "test"), entry(3, "test")]
    assert "warning: the data set has no train split" in capsys.readouterr().err


def test_what_is_wrong_is_listed(release, capsys):
    (release / "all.json").write_text(json.dumps([entry(1, "train"), entry(1, "tset"), entry(9, "test")]))
    with pytest.raises(UserError, match=r"3 problems in .*all\.json"):
        main(["UFine6926", str(release)])
    errors = capsys.readouterr().err
    assert "entry 2 (images/1.jpg): split 'tset' is not known" in errors
    assert f"entry 3 (images/9.jpg): {release}/images/9.jpg: no such file" in errors
    assert not (release / "processed_data").exists()


def test_other_files_are_explained(release):
    with pytest.raises(UserError, match=r"\*\.json does not exist; put the annotations of UFine6926 there"):
        main(["UFine6926", str(release)])
    (release / "processed_data").mkdir()
    (release / "processed_data" / "test.json").write_text("[]")
    with pytest.raises(UserError, match="put the annotations of UFine6926 there"):
        main(["UFine6926", str(release)])
    (release / "reid_raw.json").write_text(json.dumps([entry(1, "train")]))
    with pytest.raises(UserError, match=r"reid_raw\.json is of CUHK-PEDES: is the data set CUHK-PEDES"):
        main(["UFine6926", str(release)])
    (release / "more.json").write_text("[]")
    with pytest.raises(UserError, match=r"holds more\.json, reid_raw\.json; leave there only the annotation file"):
        main(["UFine6926", str(release)])
    with pytest.raises(UserError, match=f"give {release} as ROOT"):
        main(["UFine6926", str(release.parent)])
