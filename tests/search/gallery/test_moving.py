"""A gallery follows images and a model that were moved: nothing is encoded again, nothing is lost."""

import json
import shutil

import pytest
from in_process import call
from PIL import Image

from search.__main__ import main
from search.files import images as images_module
from search.files.images import LocalImages
from search.files.records import Records
from search.files.storage import LocalStorage
from search.gallery import moving
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.gallery.moving import match_paths, move_images
from utils.errors import UserError

pytest.importorskip("pymilvus")


def picture(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16), (40 * number, 9, 9)).save(path)


@pytest.fixture
def place(encoder, tmp_path, monkeypatch):
    """A gallery of five images with metadata, whose model may encode no more."""
    names = ["a/1.png", "a/2.png", "a/copy.png", "b/3.png", "4.png"]
    for number, name in zip((1, 2, 2, 3, 4), names, strict=True):
        picture(tmp_path / "old" / name, number)
    with open_gallery(str(tmp_path / "gallery"), encoder, tmp_path / "old") as gallery:
        index(gallery, encoder, {name: {"name": name} for name in names})
    monkeypatch.setattr(encoder, "encode_images", None)
    return tmp_path / "gallery"


def known(gallery):
    """Metadata by path; the index holds the same images."""
    assert gallery.store.ids() == set(gallery.records.by_id) and gallery.store.count() == len(gallery.records)
    return {image.path: image.metadata["name"] for image in gallery.records}


def test_images_are_found_by_path_and_by_content(encoder, place, tmp_path):
    new = tmp_path / "new" / "deep"
    shutil.copytree(tmp_path / "old", new)
    shutil.rmtree(tmp_path / "old")
    (new / "a").rename(new / "c")  # other paths
    (new / "b" / "3.png").unlink()  # gone
    picture(new / "4.png", 5)  # another content
    picture(new / "more.png", 6)
    with open_gallery(str(place), encoder) as gallery:
        found = move_images(gallery, LocalImages(tmp_path / "new" / "deep"))
        assert (found.in_place, found.changed, found.missing) == ([], ["4.png"], ["b/3.png"])
        assert str(found) == ("3 images are there, 3 under another path; 1 has another content, 1 is not found")
        moved = {"c/1.png": "a/1.png", "c/2.png": "a/2.png", "c/copy.png": "a/copy.png"}
        assert known(gallery) == {**moved, "b/3.png": "b/3.png", "4.png": "4.png"}
    with open_gallery(str(place), encoder) as gallery:
        assert gallery.image_source.path == new and gallery.content_of("c/1.png")
        assert known(gallery)["c/1.png"] == "a/1.png"


def test_of_files_with_the_same_content_the_one_with_the_same_names_is_meant():
    old = {"b/x.jpg": "same", "c/y.jpg": "same", "d/z.jpg": "other"}
    there = ("a/x.jpg", "b/x.jpg", "c/y.jpg", "c/x.jpg")
    new = {f"photos/{path}": "same" for path in there}
    assert match_paths(old, new) == {"b/x.jpg": "photos/b/x.jpg", "c/y.jpg": "photos/c/y.jpg"}
    assert match_paths({"x.jpg": "same", "y.jpg": "same"}, {"n/y.jpg": "same"}) == {"y.jpg": "n/y.jpg"}
    assert match_paths({"b/x.jpg": "same"}, {"p/b/w.jpg": "same", "q/x.jpg": "same"}) == {"b/x.jpg": "q/x.jpg"}


def test_images_that_were_forgotten_stay_so_where_copies_move(encoder, place, tmp_path):
    with open_gallery(str(place), encoder) as gallery:
        gallery.forget(["a/2.png"])  # of which a/copy.png is a copy
        (tmp_path / "disk").mkdir()
        shutil.move(tmp_path / "old", tmp_path / "disk" / "photos")
        move_images(gallery, LocalImages(tmp_path / "disk"))
        names = ("a/1.png", "a/copy.png", "b/3.png", "4.png")
        assert known(gallery) == {f"photos/{name}": name for name in names}


def test_the_whole_may_be_elsewhere_below_a_new_folder_and_back(encoder, place, tmp_path):
    (tmp_path / "disk").mkdir()
    shutil.move(tmp_path / "old", tmp_path / "disk" / "photos")
    with open_gallery(str(place), encoder) as gallery:
        before = known(gallery)
        assert len(move_images(gallery, LocalImages(tmp_path / "disk")).paths) == 5
        assert known(gallery) == {f"photos/{path}": name for path, name in before.items()}
        assert index(gallery, encoder).unchanged == 5
        assert len(move_images(gallery, LocalImages(tmp_path / "disk" / "photos")).paths) == 5
        assert known(gallery) == before


def test_two_images_that_changed_places_stay_where_they_are(encoder, place, tmp_path):
    """Their paths belong to each other: what `index` has always made of that."""
    picture(tmp_path / "old" / "a" / "1.png", 3)
    picture(tmp_path / "old" / "b" / "3.png", 1)
    with open_gallery(str(place), encoder) as gallery:
        before = known(gallery)
        assert move_images(gallery, LocalImages(tmp_path / "old")).changed == ["a/1.png", "b/3.png"]
        assert known(gallery) == before


def test_a_folder_of_other_images_changes_nothing(encoder, place, tmp_path, monkeypatch):
    picture(tmp_path / "other" / "4.png", 6)
    about = (place / "gallery.json").read_text()
    with open_gallery(str(place), encoder) as gallery:
        for folder, words in (("other", "none of the 5 images .* nothing was changed"), ("nowhere", "is not a folder")):
            with pytest.raises(UserError, match=words):
                move_images(gallery, LocalImages(tmp_path / folder))
        shutil.copytree(tmp_path / "old", tmp_path / "new")
        picture(tmp_path / "new" / "closed" / "5.png", 5)
        real = images_module.read_content

        def read(path):
            if path.name == "1.png":
                raise moving.Unusable("cannot be read: Input/output error")
            return real(path)

        monkeypatch.setattr(images_module, "read_content", read)
        before = known(gallery)
        assert (place / "gallery.json").read_text() == about
        found = move_images(gallery, LocalImages(tmp_path / "new"))
        assert found.unreadable == {"a/1.png": "cannot be read: Input/output error"}
        assert known(gallery) == before


@pytest.mark.parametrize("at", ["the first file", "records", "gallery.json", "the index", "the end"])
def test_killed_half_way_it_is_finished_or_not_begun(encoder, place, tmp_path, monkeypatch, at):
    shutil.move(tmp_path / "old", tmp_path / "new")
    (tmp_path / "new" / "a").rename(tmp_path / "new" / "c")

    def killed(*arguments, **named):
        raise KeyboardInterrupt

    real = LocalStorage.write_json
    writers = {"the first file": "moving.json", "gallery.json": "gallery.json"}

    with open_gallery(str(place), encoder) as gallery:
        before = known(gallery)
        with monkeypatch.context() as patch:
            if at in writers:
                name = writers[at]
                patch.setattr(LocalStorage, "write_json", lambda *a, **k: (killed if a[1] == name else real)(*a, **k))
            elif at == "records":
                patch.setattr(Records, "write", killed)
            elif at == "the index":
                patch.setattr(type(gallery.store), "upsert", killed)
            else:
                patch.setattr(type(gallery.store), "finish", killed)
            with pytest.raises(KeyboardInterrupt):
                move_images(gallery, LocalImages(tmp_path / "new"))
    with open_gallery(str(place), encoder) as gallery:
        if at == "the first file":
            assert known(gallery) == before and gallery.image_source.path == tmp_path / "old"
        else:
            assert known(gallery) == {path.replace("a/", "c/"): name for path, name in before.items()}
            assert gallery.image_source.path == tmp_path / "new" and not (place / "moving.json").exists()
            assert index(gallery, encoder).unchanged == 5


def test_the_commands_follow_a_model_and_images_that_were_moved(trained, place, tmp_path):
    run, name = tmp_path / "run", ("--gallery", place)
    shutil.copytree(trained.parent, run)
    assert call(main, "index", tmp_path / "old", *name, "--checkpoint", run / trained.name).code == 0
    assert recorded(place) == str(run / trained.name)  # the new place of the same model
    run.rename(tmp_path / "run2")
    query = ("query", "a man", *name, "--candidates", "0")
    told = call(main, *query)
    assert told.code == 2 and "does not exist; if it was moved" in told.errors
    assert f"python -m search move --gallery {place} --checkpoint NEW" in told.errors
    assert call(main, "move", *name).errors.startswith("error: move what?")
    shutil.move(tmp_path / "old", tmp_path / "new")
    told = call(main, "index", tmp_path / "new", *name, "--checkpoint", trained)
    assert told.code == 2 and f"--gallery {place} --images {tmp_path / 'new'}" in told.errors
    moved = call(main, "move", *name, "--checkpoint", tmp_path / "run2" / trained.name, "--images", tmp_path / "new")
    assert moved.code == 0 and moved.output.splitlines() == [
        "5 images are there; 0 have another content, 0 are not found; the images of the gallery are in "
        f"{tmp_path / 'new'}",
        f"the model of the gallery is {tmp_path / 'run2' / trained.name}",
    ]
    answer = call(main, *query, "--json")
    hits = json.loads(answer.output)["hits"]
    assert len(hits) == 5 and all(hit["metadata"]["name"] == hit["path"] for hit in hits)
    assert {hit["file"] for hit in hits} == {str(path) for path in (tmp_path / "new").rglob("*.png")}


def recorded(place):
    return json.loads((place / "gallery.json").read_text())["encoder"]["checkpoint"]
