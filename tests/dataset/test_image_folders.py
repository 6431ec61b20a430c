"""One walk of a folder: what is an image, what is left out and told, what is a circle, what cannot be listed."""

import errno
import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from dataset import decoding, image_folders
from dataset.image_files import missing_images
from dataset.image_folders import match_forms, walk_images
from utils.errors import UserError

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD"))


def make(folder, *names):
    """Empty files of these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_all_that_is_decoded_is_found_and_what_looks_like_an_image_is_counted(tmp_path):
    readable = ["a.jpg", "b.JPEG", "c.jfif", "d.jpe", "e.png", "f.webp", "g.BMP", "h.gif", "i.tif", "j.Tiff", "x/k.MPO"]
    readable += ["l.jif", "m.jfi", "n.pjpeg", "o.PJP"]
    make(tmp_path, *readable, "v.mp4", "v.MOV", "w.mov", "raw.CR2", "notes.txt", "no_ending", "m.csv", "x/p.psd")
    found = walk_images(tmp_path)
    assert found.images == sorted(readable)
    assert found.left_out == Counter(mov=2, mp4=1, cr2=1, psd=1)
    assert found.describe_left_out() == "5 files of other kinds are left out: mov 2, cr2 1, mp4 1, psd 1"
    assert walk_images(make(tmp_path / "one", "a.jp2")).describe_left_out().startswith("1 file of another kind is left")
    assert walk_images(make(tmp_path / "two", "a.jpg")).describe_left_out() == ""


def test_endings_that_downloads_and_programs_have_changed_are_told(tmp_path):
    make(tmp_path, "a.jpg_large", "b.PNG~", "c.webp?w=200", "d.jpg ", "e.jpgs", "f.txt~", "g.jpg.json", "h_jpg")
    found = walk_images(tmp_path)
    assert found.images == ["d.jpg "]
    assert found.left_out == Counter({"jpg_large": 1, "png~": 1, "webp?w=200": 1})
    told = walk_images(make(tmp_path / "odd", "a.jpg\x1b[31m")).describe_left_out()
    assert told == "1 file of another kind is left out: 'jpg\\x1b[31m' 1"


def test_what_cannot_be_decoded_here_is_counted(tmp_path, monkeypatch):
    make(tmp_path, "a.heic", "b.HEIF", "c.avif", "d.jpg")
    monkeypatch.setattr(decoding, "known_formats", lambda: ("JPEG",))
    found = walk_images(tmp_path)
    assert found.images == ["d.jpg"] and found.left_out == Counter(heic=1, heif=1, avif=1)
    assert found.describe_left_out().endswith("avif 1, heic 1, heif 1; HEIC can be read with the package pillow-heif")
    monkeypatch.setattr(decoding, "known_formats", lambda: ("JPEG", "AVIF", "HEIF"))
    assert len(walk_images(tmp_path).images) == 4


def test_hidden_files_folders_of_the_system_and_those_of_the_caller_are_left_out(tmp_path):
    make(tmp_path, "a.jpg", ".b.jpg", "._a.jpg", ".thumbs/c.jpg", "@eaDir/d.jpg", "x/lost+found/e.jpg", "own/f.jpg")
    make(tmp_path, "own/marker", "x/own/marker", "x/own/y/g.jpg", "x/h.jpg")
    found = walk_images(tmp_path, lambda path, names: "marker" in names)
    assert found.images == ["a.jpg", "x/h.jpg"]
    assert set(found.folders_left_out) == {"own", "x/own", "@eaDir", "x/lost+found"}


def test_links_are_followed_and_circles_are_not(tmp_path):
    elsewhere = make(tmp_path / "elsewhere", "cam1/1.jpg", "cam1/deep/2.jpg", "3.jpg")
    photos = make(tmp_path / "photos", "a/4.jpg", "z/5.jpg")
    (photos / "cam1").symlink_to(elsewhere / "cam1")
    (photos / "file.jpg").symlink_to(elsewhere / "3.jpg")
    (photos / "a" / "itself").symlink_to(photos / "a")
    (photos / "a" / "root").symlink_to(photos)
    (photos / "above").symlink_to(tmp_path)
    (photos / "again").symlink_to(photos / "z")  # in the tree already
    (elsewhere / "cam1" / "back").symlink_to(photos / "cam1")
    (photos / "nowhere").symlink_to(tmp_path / "unmounted")
    (photos / "loop").symlink_to(photos / "loop")
    (photos / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    found = walk_images(photos)
    assert found.images == ["a/4.jpg", "cam1/1.jpg", "cam1/deep/2.jpg", "file.jpg", "nowhere.jpg", "z/5.jpg"]
    assert {path: fault.split(": ")[1] for path, fault in found.unreachable.items()} == {
        "nowhere": "No such file or directory",
        "loop": "Too many levels of symbolic links",
    }


def test_the_folder_itself_may_be_a_link_and_two_links_to_one_folder_are_entered_once(tmp_path):
    make(tmp_path / "disk" / "cam", "1.jpg")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("one", "two"):
        (photos / name).symlink_to(tmp_path / "disk" / "cam")
    (tmp_path / "link").symlink_to(photos)
    assert walk_images(tmp_path / "link").images == ["one/1.jpg"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("at", ["opening", "half-way"])
def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, number, at):
    make(tmp_path, "a/1.jpg", "b/2.jpg", "b/3.jpg")
    real = os.scandir

    class Broken:
        def __init__(self, path):
            self.entries, self.left = real(path), 1

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.entries.close()

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise OSError(number, os.strerror(number))
            self.left -= 1
            return next(self.entries)

    def scandir(path):
        if Path(path).name != "b":
            return real(path)
        if at == "opening":
            raise OSError(number, os.strerror(number), path)
        return Broken(path)

    monkeypatch.setattr(image_folders.os, "scandir", scandir)
    with pytest.raises(UserError, match="b cannot be listed: ") as told:
        walk_images(tmp_path)
    assert os.strerror(number) in str(told.value) and "nothing was changed" in str(told.value)
    assert set(missing_images(["b/2.jpg"], tmp_path).values()) == {os.strerror(number)}


def test_a_folder_that_an_ordinary_user_may_not_list_is_named():
    folder = Path(tempfile.mkdtemp())  # not below the folder of pytest, which is closed to others
    try:
        folder.chmod(0o755)
        make(folder, "a/1.jpg", "b/2.jpg")
        (folder / "b").chmod(0)
        before = os.geteuid()
        if not before:
            os.seteuid(65534)
        try:
            with pytest.raises(UserError, match="b cannot be listed: Permission denied"):
                walk_images(folder)
        finally:
            os.seteuid(before)
    finally:
        (folder / "b").chmod(0o755)
        shutil.rmtree(folder)


def test_names_are_matched_over_their_unicode_forms_when_one_alone_is_meant():
    assert match_forms([f"{COMPOSED}.jpg", "b.jpg"], [f"{DECOMPOSED}.jpg", "b.jpg"]) == {
        f"{COMPOSED}.jpg": f"{DECOMPOSED}.jpg"
    }
    assert match_forms([f"{DECOMPOSED}/1.jpg"], [f"{COMPOSED}/1.jpg"]) == {f"{DECOMPOSED}/1.jpg": f"{COMPOSED}/1.jpg"}
    both = [f"{COMPOSED}.jpg", f"{DECOMPOSED}.jpg"]
    assert match_forms(both, both) == {}
    assert match_forms(both, both[:1]) == {}  # two rows, one image: it is that of the row which names it
    assert match_forms([f"{COMPOSED}é.jpg"], [f"{DECOMPOSED}é.jpg", f"{COMPOSED}e\u0301.jpg"]) == {}


@pytest.mark.parametrize("folder", [COMPOSED, DECOMPOSED])
def test_a_missing_image_whose_name_has_another_form_is_told(tmp_path, folder):
    other = DECOMPOSED if folder == COMPOSED else COMPOSED
    make(tmp_path, f"{other}.jpg", f"{other}/x/1.jpg")
    missing = missing_images([f"{folder}.jpg", f"{folder}/x/1.jpg", "nobody/1.jpg"], tmp_path)
    assert missing["nobody/1.jpg"] == "the folder does not exist"
    for name in (f"{folder}.jpg", f"{folder}/x/1.jpg"):
        assert "another Unicode form" in missing[name] and ascii(other)[:-1] in missing[name]


def test_a_data_set_of_which_all_is_missing_is_told_as_soon_as_one_image(tmp_path, monkeypatch):
    counts = Counter()

    def count(name: str, function):
        def counting(*arguments):
            counts[name] += 1
            return function(*arguments)

        return counting

    monkeypatch.setattr(image_folders.unicodedata, "normalize", count("names", unicodedata.normalize))
    monkeypatch.setattr(os, "scandir", count("folders", os.scandir))
    make(tmp_path, *(f"{number}.jpg" for number in range(100)), *(f"people/{number}/1.jpg" for number in range(100)))
    assert len(missing_images([f"{number}.png" for number in range(100)], tmp_path)) == 100
    assert len(missing_images([f"people/0{number}/1.jpg" for number in range(100)], tmp_path)) == 100
    assert counts["names"] < 1000 and counts["folders"] < 200
