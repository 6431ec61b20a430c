"""Which images a command to forget means."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from search.batching.batches import SearchJob
from search.files.images import LocalImages
from search.gallery.selection import select_images
from utils.errors import UserError

pytest.importorskip("pymilvus")


def test_names_and_conditions_restrict_each_other(searcher):
    gallery = searcher.gallery
    everything = list(gallery.records.by_path)
    cameras = {path: record.metadata["camera"] for path, record in gallery.records.by_path.items()}
    assert set(select_images(gallery, [], ["camera=c1"])) == {path for path in everything if cameras[path] == "c1"}
    first = everything[0]
    other = next(camera for camera in ("c0", "c1", "c2") if camera != cameras[first])
    assert select_images(gallery, [first], [f"camera={cameras[first]}"]) == [first]
    assert select_images(gallery, [first], [f"camera={other}"]) == []
    assert select_images(gallery, [], ["camera=c1", "camera=c2"]) == []
    folder = str(Path(first).parent)
    assert set(select_images(gallery, [folder], [])) == {
        path for path in everything if Path(path).parent == Path(folder)
    }
    with pytest.raises(UserError, match="no metadata are called bogus"):
        select_images(gallery, [], ["bogus=1"])
    with pytest.raises(UserError, match="name images"):
        select_images(gallery, [], [])
    with pytest.raises(UserError, match="its paths start from"):
        select_images(gallery, ["nobody.jpg"], [])


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("time='830'", "no image has that; write time=830"),
        ("time == '830'", "no image has that; write time=830"),
        ("time=0830", "no image has that; time holds numbers, such as 830"),
        ("time=noon", "no image has that; time holds numbers, such as 830"),
        ("hour=830", "no image has that; hour holds text, such as '0830'"),
        ('hour="0830"', "no image has that; write hour=0830"),
        ("time>800", "NAME=VALUE is expected"),
        ("time>=800", "no metadata are called time>"),
    ],
)
def test_a_condition_that_no_image_has_says_what_the_column_holds(condition, words):
    metadata = [{"time": 830, "hour": "0830"}, {"time": 900, "hour": "900"}]
    records = SimpleNamespace(by_path={f"{n}.jpg": SimpleNamespace(metadata=one) for n, one in enumerate(metadata)})
    gallery = SimpleNamespace(records=records, columns=lambda: {"time": [830, 900], "hour": ["0830", "900"]})
    with pytest.raises(UserError) as told:
        select_images(gallery, [], [condition])
    assert words in str(told.value)
    for right in ("time=830", "time = 830.0", "hour=0830"):
        assert select_images(gallery, [], [right]) == ["0.jpg"]


def test_a_column_and_a_group_are_found_over_their_unicode_form():
    records = SimpleNamespace(by_path={"1.jpg": SimpleNamespace(metadata={"K\u00e4fig": "c1"})})
    gallery = SimpleNamespace(records=records, columns=lambda: {"K\u00e4fig": ["c1"]})
    assert select_images(gallery, [], ["Ka\u0308fig=c1"]) == ["1.jpg"]
    assert SearchJob("a man", 1, 0, "", "Ka\u0308fig", False).group == "K\u00e4fig"


def test_a_path_may_be_given_as_it_is_printed(tmp_path, monkeypatch):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.jpg").touch()
    folder = tmp_path / "photos"
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "./a/1.jpg", str(folder / "a" / "1.jpg"), "photos/a/1.jpg", "a/../a/1.jpg"):
        assert "a/1.jpg" in LocalImages(folder).paths_of(name), name
    assert LocalImages(folder).paths_of("../x.jpg") == []


@pytest.mark.parametrize("name", ["", " ", "\t"])
def test_an_empty_name_is_not_all_images(tmp_path, name):
    """A variable of the shell that is not set erases nothing."""
    gallery = SimpleNamespace(image_source=LocalImages(tmp_path), records=SimpleNamespace(by_path={"a/1.jpg": None}))
    for names in ([name], ["a", name]):
        with pytest.raises(UserError, match=r"image or folder is empty; \. means all"):
            select_images(gallery, names, [])


def test_the_folder_of_images_itself_means_all(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    gallery = SimpleNamespace(
        image_source=LocalImages(folder), records=SimpleNamespace(by_path={"a/1.jpg": None, "b/2.jpg": None})
    )
    for name in (".", "./", "a/..", str(folder), f"{folder}/"):
        assert select_images(gallery, [name], []) == ["a/1.jpg", "b/2.jpg"], name
    monkeypatch.chdir(folder / "a")
    assert select_images(gallery, ["."], []) == ["a/1.jpg"]
    assert select_images(gallery, [".."], []) == ["a/1.jpg", "b/2.jpg"]
    with pytest.raises(UserError, match="its paths start from"):
        select_images(gallery, [str(tmp_path)], [])
