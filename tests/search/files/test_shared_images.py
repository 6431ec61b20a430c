"""Images in storage that machines share, by a URL: indexed, searched, shown and uploaded as those of a folder."""

import json

import fsspec
import numpy as np
import pytest
from in_process import call, call_here
from PIL import Image

from dataset.decoding import Unreadable, Unusable
from search.__main__ import main
from search.files import images as images_module
from search.files.images import LocalImages, SharedImages, open_images
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.gallery.moving import move_images
from search.gallery.selection import select_images
from search.searcher import Searcher
from search.serving.upload import add_image
from utils.errors import UserError

pytest.importorskip("pymilvus")
SENTENCE = "A woman in a red coat and grey jeans."


@pytest.fixture
def url(request):
    """A storage in memory that no other test has."""
    return f"memory://{request.node.name}/photos"


@pytest.fixture
def memory():
    return fsspec.filesystem("memory")


@pytest.fixture
def copied(photos, url, memory):
    """The photos of a folder in shared storage."""
    for path in photos.rglob("*.jpg"):
        memory.pipe_file(f"{url}/{path.relative_to(photos).as_posix()}", path.read_bytes())
    return url


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(images_module, "LOOKED_AT", 0.0)


def answer(searcher):
    hits = searcher.search(SENTENCE).hits
    return [(hit.path, round(hit.similarity, 5), hit.score and round(hit.score, 4)) for hit in hits]


def test_a_walk_finds_what_that_of_a_folder_finds(url, memory, tmp_path):
    images = ("1.jpg", "a/2.PNG", "a/b/3.jpeg")
    for name in (*images, ".hidden/4.jpg", "a/.5.jpg", "@eaDir/6.jpg", "a/__MACOSX/7.jpg", "film.mp4", "x.txt"):
        memory.pipe_file(f"{url}/{name}", b"x")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    shared, local = open_images(url, "FOLDER").walk(), LocalImages(tmp_path).walk()
    assert shared.images == local.images == list(images)
    assert shared.left_out == local.left_out == {"mp4": 1}
    assert sorted(shared.folders_left_out) == sorted(local.folders_left_out) == ["@eaDir", "a/__MACOSX"]


def test_a_gallery_of_shared_images_answers_as_that_of_a_folder(encoder, photos, copied, memory, tmp_path):
    with open_gallery(tmp_path / "local", encoder, photos) as local:
        told = str(index(local, encoder))
        expected = answer(Searcher(encoder, local))
    with open_gallery(tmp_path / "g", encoder, copied) as shared:
        assert str(index(shared, encoder)) == told
        searcher = Searcher(encoder, shared)
        assert expected and answer(searcher) == expected and answer(searcher) == expected
        first, second = expected[0][0], expected[1][0]
        assert shared.content_of(first) == (photos / first).read_bytes()
        memory.rm_file(f"{copied}/{first}")
        memory.pipe_file(f"{copied}/{second}", (photos / first).read_bytes())
        found = searcher.search(SENTENCE)
        assert set(found.missing) == {first, second} and first not in [hit.path for hit in found.hits]
        with pytest.raises(Unreadable, match="does not exist"):
            shared.content_of(first)
        with pytest.raises(Unusable, match="has changed"):
            shared.content_of(second)
        assert str(index(shared, encoder)).startswith("0 added, 1 updated, 1 forgotten")
        assert select_images(shared, [f"{copied}/{second}"], []) == [second]
        with pytest.raises(UserError, match="holds no image"):
            select_images(shared, ["../photos"], [])


def test_uploads_and_moves(encoder, copied, photos, memory, tmp_path, url):
    with open_gallery(tmp_path / "g", encoder, copied) as gallery:
        index(gallery, encoder)
        before = answer(Searcher(encoder, gallery))
        content = memory.cat_file(f"{copied}/{before[0][0]}") + b"."  # a file of its own
        with pytest.raises(UserError, match="the upload"):
            add_image(Searcher(encoder, gallery), b"no image")
        image = add_image(Searcher(encoder, gallery), content)
        assert memory.cat_file(f"{copied}/{image.path}") == gallery.content_of(image.path) == content
        gallery.forget([image.path])
        with pytest.raises(UserError, match="none of the"):
            move_images(gallery, open_images("memory://nothing", "--images"))
        assert len(move_images(gallery, LocalImages(photos)).in_place) == len(gallery.records)
        assert gallery.image_source.name == str(photos) and answer(Searcher(encoder, gallery)) == before
        assert len(move_images(gallery, open_images(copied, "--images")).in_place) == len(gallery.records)
    with open_gallery(tmp_path / "g", encoder) as gallery:
        assert isinstance(gallery.image_source, SharedImages) and gallery.image_source.name == url


def test_storage_that_lost_all_images_or_cannot_be_read_changes_nothing(encoder, copied, memory, tmp_path, monkeypatch):
    with open_gallery(tmp_path / "g", encoder, copied) as gallery:
        index(gallery, encoder)
        count = len(gallery.records)

        def refuse(*_, **__):
            raise PermissionError("no\npermission")

        with monkeypatch.context() as patch:
            patch.setattr(gallery.image_source.storage.system, "find", refuse)
            with pytest.raises(UserError, match="cannot be listed; nothing was changed: no permission"):
                index(gallery, encoder)
        with monkeypatch.context() as patch:
            patch.setattr(gallery.image_source.storage.system, "cat_file", refuse)
            report = index(gallery, encoder)
            assert len(report.unreadable) == len(report.kept) == len(gallery.records) == count
        memory.rm(copied, recursive=True)
        with pytest.raises(UserError, match=r"there is no image below memory://.* any more"):
            index(gallery, encoder)
        assert len(gallery.records) == count


def test_a_file_that_is_too_large_is_not_fetched(url, memory, monkeypatch):
    memory.pipe_file(f"{url}/1.jpg", b"12345678")
    monkeypatch.setattr(images_module, "LARGEST_FILE", 7)
    with pytest.raises(Unusable, match="has 8 bytes, more than 7"):
        open_images(url, "FOLDER").read("1.jpg")


def test_the_commands(trained, copied, tmp_path):
    given = "--gallery", tmp_path / "gallery"
    assert " added, " in call_here(main, "index", copied, *given, "--checkpoint", trained).output
    printed = call_here(main, "query", SENTENCE, *given, "--sheet", tmp_path / "hits.png").output
    assert f"{copied}/" in printed
    with Image.open(tmp_path / "hits.png") as sheet:
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 500  # images, and no grey fields
    hits = json.loads(call_here(main, "query", SENTENCE, *given, "--json").output)["hits"]
    assert all(hit["file"] == f"{copied}/{hit['path']}" for hit in hits)
    for wrong, words in (("memory://none", "is not a folder of images"), ("nope://x/y", "Protocol not known")):
        told = call(main, "index", wrong, "--gallery", tmp_path / "other", "--checkpoint", trained)
        assert told.code == 2 and words in told.errors and not (tmp_path / "other").exists()


def test_another_place_whose_name_begins_alike_is_not_meant(url, memory):
    images = open_images(url, "FOLDER")
    assert images.paths_of(f"{url}/a/1.jpg") == ["a/1.jpg"] and images.paths_of(url) == ["."]
    assert images.paths_of("a/1.jpg") == ["a/1.jpg"]
    assert images.paths_of(f"{url}2/1.jpg") == images.paths_of(f"{url}2") == images.paths_of("s3://b/1.jpg") == []
