"""The same gallery on a Milvus server."""

import shutil

import pytest
from served import milvus_server

from search.files.images import LocalImages
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.gallery.moving import move_images
from search.searcher import Searcher
from utils.errors import UserError

pytest.importorskip("pymilvus")

SENTENCE = "A woman in a red coat and grey jeans."


@pytest.fixture
def address(tmp_path):
    with milvus_server(tmp_path / "milvus") as uri:
        yield uri


def test_a_server_finds_what_a_file_finds(encoder, photos, tmp_path, address, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a gallery on a server keeps its plain files
    with open_gallery(str(tmp_path / "gallery"), encoder, photos) as gallery:
        index(gallery, encoder)
        expected = Searcher(encoder, gallery).search(SENTENCE).hits
    with open_gallery(address, encoder, photos) as gallery:
        report = index(gallery, encoder)
        assert report.added == len(gallery.records) == gallery.store.count() > 0
        found = Searcher(encoder, gallery).search(SENTENCE).hits
        assert [hit.path for hit in found] == [hit.path for hit in expected]
        with pytest.raises(UserError, match="is in use by process"), open_gallery(address, encoder):
            pass
    with open_gallery(address, encoder) as gallery:
        gallery.forget([found[0].path])
        assert found[0].path not in [hit.path for hit in Searcher(encoder, gallery).search(SENTENCE).hits]
        there = gallery.store.count()
    (folder,) = (path for path in tmp_path.iterdir() if path.name.startswith("127.0.0.1-"))
    assert there == report.added - 1 and (folder / "records").is_dir()
    shutil.rmtree(folder)  # what a server holds without its plain files is another gallery's
    with pytest.raises(UserError, match=r"images of another gallery"), open_gallery(address, encoder, photos):
        pass
    with open_gallery(f"{address}/mine", encoder, photos) as gallery:
        assert gallery.store.count() == 0


def test_no_server_is_told_in_a_line(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cannot be reached"), open_gallery("http://127.0.0.1:9", encoder, photos):
        pass


def test_a_gallery_on_a_server_follows_images_that_were_moved(encoder, photos, tmp_path, address, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_gallery(address, encoder, photos) as gallery:
        index(gallery, encoder)
        paths = set(gallery.records.by_path)
    (tmp_path / "disk").mkdir()
    shutil.move(photos, tmp_path / "disk" / "photos")
    with open_gallery(address, encoder) as gallery:
        assert len(move_images(gallery, LocalImages(tmp_path / "disk")).paths) == len(paths)
    with open_gallery(address, encoder) as gallery:
        assert set(gallery.records.by_path) == {f"photos/{path}" for path in paths}
        assert gallery.store.ids() == set(gallery.records.by_id)
        assert Searcher(encoder, gallery).search(SENTENCE, candidates=0).hits[0].path.startswith("photos/")
