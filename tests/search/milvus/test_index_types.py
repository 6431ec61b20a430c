"""Each type of index finds nearly what an exact search finds, is kept, and is changed without encoding an image."""

import json

import numpy as np
import pytest
from in_process import call
from served import milvus_server

from search.__main__ import main
from search.encoder import Encoder
from search.files.records import IndexedImage
from search.gallery.gallery import Gallery, open_gallery
from search.gallery.indexing import index
from search.gallery.searchable_gallery import open_shared_gallery
from search.milvus.index_types import AUTO, CHOICES, EXACT, INDEX_TYPES, chosen_type
from search.milvus.store import Store, parameters_of
from search.searcher import Searcher
from utils.errors import UserError

pytest.importorskip("pymilvus")

ON_SERVERS_ALONE = "DISKANN"
BUILT = [name for name in INDEX_TYPES if name != ON_SERVERS_ALONE]
SENTENCE = "A woman in a red coat and grey jeans."


def people(count, each=5, size=16):
    """Unit vectors [count, size], several near each other, as images of one person are."""
    draw = np.random.default_rng(0)
    found = draw.standard_normal((count // each, size)).repeat(each, 0) + 0.5 * draw.standard_normal((count, size))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("name", BUILT)
def test_the_nearest_are_found(tmp_path, name):
    vectors, queries = people(4000), people(4100)[-20:]
    store = Store(str(tmp_path / "index.db"), "gallery", 16, requested_type=name)
    try:
        store.upsert([IndexedImage(f"{n}.jpg", str(n), vector) for n, vector in enumerate(vectors)])
        store.finish()
        assert store.describe_index()["index_type"] == name
        assert parameters_of(store.describe_index()).items() >= INDEX_TYPES[name].build(4000).items()
        right = 0
        for query, found in zip(queries, store.search_all(queries, 50), strict=True):
            exact = {f"{n}.jpg" for n in np.argsort(-(vectors @ query))[:50]}
            right += len(exact & {path for _, path, _ in found})
        assert right / 1000 >= (1 if name == EXACT else 0.9)
    finally:
        store.close()
    again = Store(str(tmp_path / "index.db"), "gallery", 16, requested_type=name)
    try:
        assert again.index_type == name and again.built_with.items() >= INDEX_TYPES[name].build(4000).items()
    finally:
        again.close()


def test_what_is_built_where_nothing_is_asked_for():
    assert [chosen_type(AUTO, images) for images in (0, 99_999, 100_000)] == ["FLAT", "FLAT", "HNSW"]
    assert chosen_type("IVF_SQ8", 3) == "IVF_SQ8"
    lists = [INDEX_TYPES["IVF_FLAT"].build(images)["nlist"] for images in (0, 10_000, 1_000_000, 10**9)]
    assert lists == [16, 400, 4000, 65_536]


def test_numbers_that_a_server_tells_as_text_are_numbers():
    assert parameters_of({"index_type": "IVF_FLAT", "nlist": "400"})["nlist"] == 400
    assert parameters_of({"params": {"nlist": 400}})["nlist"] == 400


def hits(encoder, gallery):
    return [(hit.path, hit.similarity, hit.score) for hit in Searcher(encoder, gallery).search(SENTENCE, top=8).hits]


def test_a_gallery_has_the_type_that_was_chosen_and_gets_another(encoder, photos, tmp_path, monkeypatch):
    place = str(tmp_path / "gallery")
    with open_gallery(place, encoder, photos) as gallery:
        index(gallery, encoder)
        expected = hits(encoder, gallery)
        assert gallery.store.index_type == EXACT and "index_type" not in gallery.manifest
    monkeypatch.setattr(Encoder, "encode_images", lambda *_: pytest.fail("an image is encoded"))
    with open_gallery(place, encoder, anew=True, index_type="IVF_SQ8") as gallery:
        assert gallery.store.describe_index()["index_type"] == "IVF_SQ8"
    monkeypatch.undo()
    (photos / "more.png").write_bytes(next(photos.rglob("*.jpg")).read_bytes())
    with open_gallery(place, encoder, photos) as gallery:  # kept when the folder is indexed again
        index(gallery, encoder)
        assert gallery.store.index_type == "IVF_SQ8" and gallery.store.count() == len(gallery.records)
    (photos / "more.png").unlink()
    with open_gallery(place, encoder, photos) as gallery:
        index(gallery, encoder)  # which builds it anew
        assert gallery.store.describe_index()["index_type"] == "IVF_SQ8"
        assert hits(encoder, gallery) == expected  # also the similarities: they are not the rounded ones
    other = open_gallery(place, encoder, photos, index_type="HNSW")
    with pytest.raises(UserError, match=r"is IVF_SQ8; to build it as HNSW: .*rebuild"), other:
        pass


def test_a_type_that_milvus_does_not_have_is_refused_before_anything_changes(encoder, photos, tmp_path):
    place = tmp_path / "gallery"
    made = open_gallery(str(place), encoder, photos, index_type=ON_SERVERS_ALONE)
    with pytest.raises(UserError, match=f"does not build an index {ON_SERVERS_ALONE}") as told, made:
        pass
    assert "\n" not in str(told.value) and not (place / "gallery.json").exists()
    with open_gallery(str(place), encoder, photos, index_type="HNSW_SQ") as gallery:
        index(gallery, encoder)
        expected = hits(encoder, gallery)
    about = (place / "gallery.json").read_bytes()
    assert json.loads(about)["index_type"] == "HNSW_SQ"
    changed = open_gallery(str(place), encoder, anew=True, index_type=ON_SERVERS_ALONE)
    with pytest.raises(UserError, match="does not build"), changed:
        pass
    assert (place / "gallery.json").read_bytes() == about
    with open_gallery(str(place), encoder) as gallery:
        assert gallery.store.index_type == "HNSW_SQ" and hits(encoder, gallery) == expected
        assert len(gallery.store.client.list_collections()) == 1


def test_a_change_that_was_killed_is_finished_by_the_next_process(encoder, photos, tmp_path, monkeypatch):
    place = str(tmp_path / "gallery")
    with open_gallery(place, encoder, photos) as gallery:
        index(gallery, encoder)

    def killed(gallery):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "rebuild", killed)
        with pytest.raises(KeyboardInterrupt), open_gallery(place, encoder, anew=True, index_type="IVF_FLAT"):
            pass
    with open_gallery(place, encoder) as gallery:
        assert gallery.store.describe_index()["index_type"] == "IVF_FLAT"
        assert gallery.store.count() == len(gallery.records)


def test_others_search_on_while_a_server_changes_the_type(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with milvus_server(tmp_path / "milvus") as uri:
        with open_gallery(uri, encoder, photos) as gallery:
            index(gallery, encoder)
        with open_shared_gallery(uri, encoder) as reader:
            expected = hits(encoder, reader)
            with open_gallery(uri, encoder, anew=True, index_type="IVF_FLAT"):
                reader.store.described_at = 0.0  # as after a second
                assert hits(encoder, reader) == expected
                assert reader.store.index_type == "IVF_FLAT" and "nlist" in reader.store.built_with


def test_the_command_line(trained, photos, tmp_path):
    def search(*arguments):
        return call(main, *arguments, "--gallery", tmp_path / "gallery")

    wrong = search("index", photos, "--checkpoint", trained, "--index_type", "HSNW")
    assert wrong.code == 2 and "no index type 'HSNW' (did you mean 'HNSW'?)" in wrong.errors
    assert all(name in wrong.errors for name in CHOICES)
    assert search("index", photos, "--checkpoint", trained, "--index_type", "IVF_FLAT").code == 0
    assert search("rebuild").output.strip().endswith("is built again: IVF_FLAT")
    assert search("rebuild", "--index_type", "HNSW").output.strip().endswith("is built again: HNSW")
    refused = search("rebuild", "--index_type", ON_SERVERS_ALONE)
    assert refused.code == 2 and "does not build an index DISKANN" in refused.errors
    assert search("rebuild").output.strip().endswith("is built again: HNSW")
