"""Which data set a name and a folder mean."""

import json

import pytest

from dataset.annotation_formats import find_format
from dataset.prepare import main
from utils.errors import UserError

WITHOUT_SPLITS = [
    {"id": number, "file_path": f"{number}.jpg", "captions": [f"A man with {number} bags."]} for number in range(4)
]


@pytest.mark.parametrize("name", ["cuhk-pedes", "CUHK_PEDES", "CuhkPedes"])
def test_names_in_any_case(name):
    assert find_format(name).name == "CUHK-PEDES"


@pytest.mark.parametrize(("name", "close"), [("cuhk", "CUHK-PEDES"), ("RSTP-Ried", "RSTPReid"), ("icfg", "ICFG-PEDES")])
def test_wrong_name_gets_the_nearest(name, close):
    with pytest.raises(UserError, match=f"did you mean '{close}'"):
        find_format(name)


@pytest.mark.parametrize("folder", ["", "CUHK-PEDES", "annotations"])
def test_the_first_release_without_splits_is_recognised(tmp_path, folder):
    early = tmp_path / folder / "caption_all.json"
    early.parent.mkdir(exist_ok=True)
    early.write_text(json.dumps(WITHOUT_SPLITS))
    for name in ("CUHK-PEDES", "RSTPReid"):
        with pytest.raises(UserError) as told:
            main([name, str(tmp_path)])
        for part in (f"{early} does", "without the splits", "reid_raw.json", "ShuangLI59/Person-Search-with-Natural-L"):
            assert part in str(told.value)


def test_a_file_without_any_split_is_one_line(tmp_path, capsys):
    renamed = tmp_path / "reid_raw.json"
    renamed.write_text(json.dumps(WITHOUT_SPLITS))
    with pytest.raises(UserError, match=r"reid_raw\.json has no 'split' .* in any entry; nor has caption_all\.json"):
        main(["CUHK-PEDES", str(tmp_path)])
    assert not capsys.readouterr().err
    renamed.write_text(json.dumps([{**entry, "spilt": "train"} for entry in WITHOUT_SPLITS]))
    with pytest.raises(UserError, match=r"did you mean 'spilt'"):
        main(["CUHK-PEDES", str(tmp_path)])
    renamed.write_text(json.dumps([{**WITHOUT_SPLITS[0], "split": "train"}, *WITHOUT_SPLITS[1:]]))
    with pytest.raises(UserError, match=r"3 problems"):
        main(["CUHK-PEDES", str(tmp_path), "--skip_images"])
