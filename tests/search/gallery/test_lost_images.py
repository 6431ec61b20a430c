"""Only what is known to be gone is forgotten: what cannot be listed or read now keeps its record and its metadata."""

import errno
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from in_process import call
from PIL import Image

from dataset import decoding, image_folders
from search.__main__ import main
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.gallery.selection import select_images
from utils.errors import UserError

pytest.importorskip("pymilvus")


@pytest.fixture
def folders(tmp_path):
    """Three folders of photos, one within another."""
    folder = tmp_path / "folders"
    for number, name in enumerate(["cam1/1", "cam1/2", "cam2/3", "cam2/deep/4", "cam2/deep/5", "6"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16), (40 * number, 9, 9)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def indexed(encoder, folders, tmp_path):
    """A gallery of them, with metadata of each."""
    with open_gallery(str(tmp_path / "gallery"), encoder, folders) as gallery:
        names = [path.relative_to(folders).as_posix() for path in folders.rglob("*.png")]
        index(gallery, encoder, {name: {"place": name[:4]} for name in names})
        yield gallery


def state(gallery):
    return {image.path: dict(image.metadata) for image in gallery.records}, gallery.store.ids()


def refuses_paths(monkeypatch, place, number, part):
    """Make a function of the system fail for paths with a part."""
    module, name = place
    real = getattr(module.os, name)

    def failing(path, *arguments, **named):
        if part in os.fspath(path):
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments, **named)

    monkeypatch.setattr(module.os, name, failing)


@pytest.mark.parametrize(("part", "number"), [("cam2", errno.EACCES), ("cam2/deep", errno.EIO)])
def test_a_folder_that_cannot_be_listed_changes_nothing(encoder, indexed, folders, monkeypatch, part, number):
    before = state(indexed)
    (folders / "cam1" / "1.png").unlink()
    refuses_paths(monkeypatch, (image_folders, "scandir"), number, part)
    with pytest.raises(UserError, match=f"{part} cannot be listed: .*; nothing was changed"):
        index(indexed, encoder)
    assert state(indexed) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.ENOENT])
def test_images_that_cannot_be_read_now_are_kept(encoder, indexed, folders, monkeypatch, number):
    before = state(indexed)
    Image.new("RGB", (8, 16), "blue").save(folders / "cam2" / "new.png")
    refuses_paths(monkeypatch, (decoding, "open"), number, "cam2")
    report = index(indexed, encoder)
    assert state(indexed) == before and (report.removed, report.unchanged) == (0, 6)
    assert set(report.unreadable) == {"cam2/3.png", "cam2/deep/4.png", "cam2/deep/5.png", "cam2/new.png"}
    assert report.unreadable["cam2/3.png"].endswith("; what the gallery knows of it is kept")
    assert "kept" not in report.unreadable["cam2/new.png"]
    metadata = {path: {"place": "hall"} for path in before[0]}
    assert index(indexed, encoder, metadata).updated == 6  # a table needs no pixels
    assert state(indexed)[0] == metadata


def test_a_link_that_leads_nowhere_keeps_what_is_known(encoder, indexed, folders, tmp_path):
    shutil.move(folders / "6.png", tmp_path / "6.png")
    (folders / "6.png").symlink_to(tmp_path / "6.png")
    assert index(indexed, encoder).unchanged == 6
    (tmp_path / "6.png").unlink()
    report = index(indexed, encoder)
    assert "6.png" in report.unreadable and "6.png" in indexed.records.by_path
    (folders / "6.png").unlink()
    assert index(indexed, encoder).removed == 1


@pytest.mark.parametrize(
    ("lost", "way"),
    [("cam1", "removed"), ("cam2/deep", "empty"), ("cam2", "a link to nowhere"), ("cam2/deep", "other files")],
)
def test_a_folder_that_lost_all_its_images_is_asked_about(encoder, indexed, folders, lost, way):
    before = state(indexed)
    shutil.rmtree(folders / lost)
    if way == "a link to nowhere":
        (folders / lost).symlink_to("/nowhere/at/all")
    elif way != "removed":
        (folders / lost).mkdir()
    if way == "other files":
        (folders / lost / "video.mp4").touch()
    count = sum(path.startswith(f"{lost}/") for path in before[0])
    with pytest.raises(UserError, match=f"{lost} .*has none of the {count} images any more.*--gone {lost}$") as told:
        index(indexed, encoder)
    assert ("No such file" in str(told.value)) == (way == "a link to nowhere")
    assert state(indexed) == before
    with pytest.raises(UserError, match=f"--gone {lost}$"):
        index(indexed, encoder, gone=["cam1" if lost != "cam1" else "cam2"])
    assert state(indexed) == before
    report = index(indexed, encoder, gone=[lost])
    assert report.removed == count and not [path for path in indexed.records.by_path if path.startswith(f"{lost}/")]
    assert index(indexed, encoder, gone=[lost]).removed == 0  # a command that is repeated


def test_several_lost_folders_are_named_together(encoder, indexed, folders):
    for lost in ("cam1", "cam2"):
        shutil.rmtree(folders / lost)
    with pytest.raises(UserError, match=r"nor has another folder; .* --gone cam1 cam2$"):
        index(indexed, encoder)
    assert index(indexed, encoder, gone=["."]).removed == 5


def test_everything_may_be_gone_for_good(encoder, indexed, folders):
    shutil.rmtree(folders)
    folders.mkdir()
    with pytest.raises(UserError, match=r"any more; nothing was changed: .* --gone \.$"):
        index(indexed, encoder, gone=["cam1"])
    assert index(indexed, encoder, gone=[str(folders)]).removed == 6


def test_one_image_of_several_may_go_without_a_question(encoder, indexed, folders):
    (folders / "cam2" / "deep" / "4.png").unlink()
    (folders / "6.png").unlink()
    assert index(indexed, encoder).removed == 2


def test_galleries_hold_no_images_to_index(encoder, folders):
    """What a page has shown is not taken for photos, also not when its server was killed."""
    place = folders / "cam1" / "gallery"
    for name in ("gallery", "another"):
        with open_gallery(str(folders / "cam1" / name), encoder, folders) as gallery:
            index(gallery, encoder)
            page = gallery.page / "1"
            page.mkdir(parents=True)
            Image.new("RGB", (8, 16), "green").save(page / "image.webp")
            if name == "another":
                gallery.add_or_replace([image for image in gallery.records if image.path == "6.png"])
    with open_gallery(str(place), encoder) as gallery:
        assert not gallery.page.exists()
        assert index(gallery, encoder).unchanged == 6


def test_what_an_earlier_version_indexed_of_a_gallery_is_forgotten(encoder, folders, tmp_path):
    (folders / "cam1" / "gallery" / "page").mkdir(parents=True)
    shutil.copy(folders / "6.png", folders / "cam1" / "gallery" / "page" / "heat.png")
    with open_gallery(str(tmp_path / "gallery"), encoder, folders) as gallery:
        assert index(gallery, encoder).added == 7
        (folders / "cam1" / "gallery" / "gallery.json").touch()
        (folders / "cam1" / "gallery" / "records").mkdir()
        assert index(gallery, encoder).removed == 1


def test_a_gallery_may_be_the_folder_of_images_itself(encoder, folders):
    with open_gallery(str(folders / "own"), encoder, folders):
        pass
    for path in (folders / "own").iterdir():
        shutil.move(path, folders / path.name)
    with open_gallery(str(folders), encoder) as gallery:
        assert index(gallery, encoder).added == 6
        (gallery.page / "1").mkdir(parents=True)
        shutil.copy(folders / "6.png", gallery.page / "1" / "image.png")
        assert index(gallery, encoder).unchanged == 6


def test_metadata_and_names_match_over_unicode_forms(encoder, tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD"))
    folder = tmp_path / "names"
    for form in (composed, decomposed):
        (folder / form).mkdir(parents=True)
    Image.new("RGB", (8, 16), "red").save(folder / f"{decomposed}.png")
    for colour, form in (("blue", composed), ("green", decomposed)):
        Image.new("RGB", (8, 16), colour).save(folder / form / "1.png")
    with open_gallery(str(tmp_path / "gallery"), encoder, folder) as gallery:
        index(gallery, encoder, {f"{composed}.png": {"city": "z"}, f"{composed}/1.png": {"city": "y"}})
        known = {path: dict(image.metadata) for path, image in gallery.records.by_path.items()}
        assert known == {
            f"{decomposed}.png": {"city": "z"},
            f"{composed}/1.png": {"city": "y"},
            f"{decomposed}/1.png": {},
        }
        assert select_images(gallery, [f"{composed}.png"], []) == [f"{decomposed}.png"]
        assert select_images(gallery, [composed], []) == [f"{composed}/1.png"]
        gallery.forget([f"{composed}/1.png"])
        assert select_images(gallery, [composed], []) == [f"{decomposed}/1.png"]


def test_the_command_tells_what_is_left_out(trained, tmp_path, folders):
    (folders / "clip.mp4").touch()
    (folders / "nowhere").symlink_to("/nowhere/at/all")
    gallery, made_by = ("--gallery", tmp_path / "gallery"), ("--checkpoint", trained)
    lines = printed(main, "index", folders, *gallery, *made_by)
    assert lines == [
        "unreadable: nowhere cannot be followed: No such file or directory",
        "1 file of another kind is left out: mp4 1",
        "6 added, 0 updated, 0 forgotten, 0 unchanged; the gallery holds 6 images",
    ]
    shutil.rmtree(folders / "cam1")
    assert call(main, "index", folders, *gallery, *made_by).code == 2
    assert printed(main, "index", folders, *gallery, *made_by, "--gone", "cam1")[-1].startswith(
        "0 added, 0 updated, 2 f"
    )


def test_the_first_index_of_a_folder_without_images_advises_nothing_of_images_of_a_gallery(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.jp2").touch()
    told = call(main, "index", tmp_path / "empty", "--gallery", tmp_path / "gallery", "--checkpoint", trained)
    assert told.code == 2 and "there is no image (" in told.errors and "forget" not in told.errors
    assert "jfif" in told.errors and "1 file of another kind is left out: jp2 1" in told.errors
    assert not Path(tmp_path / "gallery").exists()


def printed(command, *arguments):
    """Lines that a command has printed."""
    ending = call(command, *arguments)
    assert ending.code == 0, ending.errors
    return ending.output.splitlines()
