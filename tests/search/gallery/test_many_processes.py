"""A gallery on a server: one process changes it, others search it meanwhile and hold nothing but a connection."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from in_process import call
from PIL import Image
from served import milvus_server

from search.__main__ import main
from search.files.images import LocalImages
from search.gallery import searchable_gallery
from search.gallery.gallery import open_gallery, require_writable_gallery
from search.gallery.grouping import ALIKE
from search.gallery.indexing import index
from search.gallery.moving import move_images
from search.gallery.searchable_gallery import MAX_VALUES, open_shared_gallery, read_manifest, shortened
from search.searcher import Searcher
from search.serving.upload import add_image
from utils.errors import UserError

pytest.importorskip("pymilvus")

SENTENCE = "A woman in a red coat and grey jeans."
SEEN_WITHIN = 1.0  # seconds
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a gallery on a server keeps its plain files
    with milvus_server(tmp_path / "milvus") as uri:
        yield uri


@pytest.fixture
def indexed(encoder, photos, address):
    """The address of an indexed gallery with a column `camera`."""
    with open_gallery(address, encoder, photos) as gallery:
        names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
        metadata = {name: {"camera": f"c{place % 3}"} for place, name in enumerate(names)}
        index(gallery, encoder, metadata | {names[0]: {"note": "first"}})  # what no other image has
    return address


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 20, 3), np.uint8))


def answer(searcher, **wanted):
    return [(hit.path, round(hit.similarity, 5), hit.metadata) for hit in searcher.search(SENTENCE, **wanted).hits]


def test_two_readers_find_what_the_writer_finds_while_it_writes(encoder, indexed, photos):
    with (
        open_gallery(indexed, encoder) as gallery,
        open_shared_gallery(indexed, encoder) as first,
        open_shared_gallery(indexed, encoder) as second,
    ):
        for wanted in ({}, {"where": "camera == 'c1'"}, {"group": "camera"}, {"group": ALIKE}, {"candidates": 0}):
            expected = answer(Searcher(encoder, gallery), **wanted)
            assert expected and answer(Searcher(encoder, first), **wanted) == expected
            assert answer(Searcher(encoder, second), **wanted) == expected
        assert first.columns() == gallery.columns() == {"camera": ["c0", "c1", "c2"], "note": ["first"]}
        assert len(first.records) == len(gallery.records)
        picture(1).save(photos / "new.png")
        index(gallery, encoder)
        for reader in (first, second):
            assert len(reader.records) == len(gallery.records)
            image = reader.records.by_path["new.png"]
            assert reader.records.by_id[image.id].metadata == gallery.records.by_path["new.png"].metadata
            assert reader.content_of("new.png") == (photos / "new.png").read_bytes()
        gone = answer(Searcher(encoder, first))[0][0]
        gallery.forget([gone])
        for reader in (first, second):
            assert gone not in [path for path, *_ in answer(Searcher(encoder, reader))]
            with pytest.raises(UserError, match="holds no image"):
                time.sleep(SEEN_WITHIN)
                reader.content_of(gone)


def test_a_reader_follows_images_that_are_moved(encoder, indexed, photos, tmp_path):
    with open_shared_gallery(indexed, encoder) as reader:
        searcher = Searcher(encoder, reader)
        expected = answer(searcher)
        photos.rename(tmp_path / "moved")
        with open_gallery(indexed, encoder) as gallery:
            move_images(gallery, LocalImages(tmp_path / "moved"))
        time.sleep(SEEN_WITHIN)
        assert answer(searcher) == expected  # without a filter, for which the columns would be read
        (tmp_path / "moved").rename(photos)
        with open_gallery(indexed, encoder) as gallery:
            move_images(gallery, LocalImages(photos))
        time.sleep(SEEN_WITHIN)
        assert reader.content_of(expected[0][0])


def test_a_reader_asks_once_a_second_where_the_images_are_and_of_which_model(encoder, indexed, monkeypatch):
    with open_shared_gallery(indexed, encoder) as reader:
        searcher, asked = Searcher(encoder, reader), []
        monkeypatch.setattr(
            searchable_gallery, "read_manifest", lambda files: asked.append(files) or read_manifest(files)
        )
        reader.manifest_read_at = time.monotonic() + 3600  # so that the machine may be slow
        assert reader.content_of(answer(searcher)[0][0]) and not asked
        reader.manifest_read_at = time.monotonic() - 2 * SEEN_WITHIN
        assert answer(searcher, candidates=0) and len(asked) == 1
        about = read_manifest(reader.files)
        reader.files.write_json("gallery.json", {**about, "made_with": {**about["made_with"], "model": "another"}})
        reader.manifest_read_at = time.monotonic() - 2 * SEEN_WITHIN
        for _ in range(2):  # also the next time
            with pytest.raises(UserError, match="was made by another model"):
                answer(searcher, candidates=0)


def test_a_reader_searches_on_where_its_plain_files_are_out_of_reach(encoder, indexed, monkeypatch, caplog):
    def fails(files):
        raise UserError("gallery.json cannot be read: no answer")

    with open_shared_gallery(indexed, encoder) as reader:
        searcher = Searcher(encoder, reader)
        expected = answer(searcher)
        monkeypatch.setattr(searchable_gallery, "read_manifest", fails)
        reader.manifest_read_at = time.monotonic() - 2 * SEEN_WITHIN
        assert answer(searcher) == expected and "no answer; what was known before is used" in caplog.text


def test_readers_search_on_while_the_index_is_built_anew(encoder, indexed):
    with open_shared_gallery(indexed, encoder) as reader:
        expected = answer(Searcher(encoder, reader), candidates=0)
        with open_gallery(indexed, encoder) as gallery:
            before = gallery.store.client.list_collections()
            gallery.rebuild()
            assert gallery.store.client.list_collections() != before  # another one has taken its place
            assert answer(Searcher(encoder, reader), candidates=0) == expected
            assert len(gallery.store.client.list_collections()) == len(before)


def test_an_index_without_an_alias_gets_one_when_it_is_built_again(encoder, indexed):
    with open_gallery(indexed, encoder) as gallery:
        client, name = gallery.store.client, gallery.store.collection
        real = client.describe_collection(name)["collection_name"]
        client.drop_alias(name)
        client.rename_collection(real, name)
        count = len(gallery.records)
    with open_gallery(indexed, encoder, anew=True) as gallery:
        assert gallery.store.count() == count
        assert gallery.store.client.describe_collection(name)["collection_name"] == f"{name}__index_2"


def test_a_server_that_is_out_of_reach_for_a_while_leaves_nothing_out(encoder, indexed, monkeypatch):
    def refuse(*_, **__):
        raise UserError("out of reach")

    with open_gallery(indexed, encoder) as gallery, open_shared_gallery(indexed, encoder) as reader:
        searcher, content = Searcher(encoder, gallery), encoded(picture(3))
        with monkeypatch.context() as patch:
            patch.setattr(gallery.store, "upsert", refuse)
            with pytest.raises(UserError, match="out of reach"):
                add_image(searcher, content)
        image = add_image(searcher, content)  # which its records have by now
        assert reader.records.by_id[image.id].path == image.path
        with monkeypatch.context() as patch:
            patch.setattr(gallery.store, "replace", refuse)
            with pytest.raises(UserError, match="out of reach"):
                gallery.forget([image.path])
        assert image.path not in [path for path, *_ in answer(searcher, top=100)]
        assert gallery.store.ids() == set(gallery.records.by_id)
        time.sleep(SEEN_WITHIN)
        assert image.path not in [path for path, *_ in answer(Searcher(encoder, reader), top=100)]


def test_a_reader_refuses_to_change_anything(encoder, indexed):
    with open_shared_gallery(indexed, encoder) as reader:
        with pytest.raises(UserError, match="only searches"):
            require_writable_gallery(reader)
        with pytest.raises(UserError, match="only searches"):
            add_image(Searcher(encoder, reader), encoded(picture(2)))
        with pytest.raises(TypeError):
            list(reader.records.by_path)
    with pytest.raises(UserError, match="there is no gallery"), open_shared_gallery(f"{indexed}/other", encoder):
        pass


def encoded(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def test_a_query_needs_no_lock(encoder, trained, indexed):
    with open_gallery(indexed, encoder):
        found = call(main, "query", SENTENCE, "--gallery", indexed, "--json", "--top", 3)
        assert found.code == 0 and len(json.loads(found.output)["hits"]) == 3
        refused = call(main, "forget", ".", "--gallery", indexed)
        assert refused.code == 2 and "is in use by process" in refused.errors


def test_files_in_shared_storage_are_those_of_the_gallery(encoder, photos, address, tmp_path):
    files = f"file://{tmp_path}/shared/gallery"
    with open_gallery(address, encoder, photos, files=files) as gallery:
        index(gallery, encoder)
        expected = answer(Searcher(encoder, gallery))
    assert (tmp_path / "shared" / "gallery" / "gallery.json").is_file()
    with open_shared_gallery(address, encoder, files) as reader:
        assert answer(Searcher(encoder, reader)) == expected
    with pytest.raises(UserError, match="there is no gallery"), open_shared_gallery(address, encoder):
        pass
    for wrong, words in (("nope://x/y", "Protocol not known"), ("s3://me:secret@bucket/x", "stands in logs")):
        told = call(main, "query", "a man", "--gallery", address, "--files", wrong)
        assert told.code == 2 and words in told.errors and "secret" not in told.errors
    told = call(main, "query", "a man", "--gallery", tmp_path / "folder", "--files", tmp_path)
    assert told.code == 2 and "--files is of a gallery on a Milvus server" in told.errors


def test_an_index_of_an_earlier_version_is_built_again_by_the_next_writer(encoder, indexed, tmp_path):
    with open_gallery(indexed, encoder) as gallery:
        rows = [{"id": one.id, "path": one.path, "embedding": one.embedding} for one in gallery.records]
        gallery.store.remove([row["id"] for row in rows])
        gallery.store.client.insert(gallery.store.collection, rows)
        gallery.files.write_json("synchronised.json", {key: gallery.state()[key] for key in ("records", "images")})
        path = rows[0]["path"]
    with open_shared_gallery(indexed, encoder) as reader, pytest.raises(UserError, match=r"earlier version.*rebuild"):
        reader.content_of(path)
    with open_gallery(indexed, encoder) as gallery, open_shared_gallery(indexed, encoder) as reader:
        assert reader.records.by_path[path].digest == gallery.records.by_path[path].digest


def test_many_values_of_a_column_are_told_by_their_ends():
    many = list(range(5 * MAX_VALUES))
    told = shortened({"time": many, "camera": ["a", "b"]})
    assert told["camera"] == ["a", "b"] and len(told["time"]) == MAX_VALUES
    assert (told["time"][0], told["time"][-1]) == (many[0], many[-1])


WRITER = """
import sys, time
import numpy as np
from search.gallery.gallery import open_gallery
from search.files.records import IndexedImage
from pathlib import Path

class Known:
    source, dimensions = {}, int(sys.argv[4])
    def fingerprint(self):
        import json
        return json.loads(sys.argv[3])

with open_gallery(sys.argv[1], Known(), Path(sys.argv[2])) as gallery:
    number = len(gallery.records)
    while True:
        vector = np.random.default_rng(number).standard_normal(Known.dimensions).astype(np.float32)
        vector /= np.linalg.norm(vector)
        gallery.add_or_replace([IndexedImage(f"written/{number:06d}.png", f"{number:032x}", vector)])
        number += 1
        print(number, flush=True)
"""


def test_every_acknowledged_image_is_found_wherever_the_writer_was_killed(encoder, indexed, photos):
    with open_shared_gallery(indexed, encoder) as reader:
        before = len(reader.records)
        acknowledged = before
        for kill in range(5):
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    WRITER,
                    indexed,
                    photos,
                    json.dumps(encoder.fingerprint()),
                    str(encoder.dimensions),
                ],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
            for _ in range(2 + kill):
                acknowledged = int(process.stdout.readline())
                assert reader.records.by_path[f"written/{acknowledged - 1:06d}.png"].digest
                assert len(reader.records) >= acknowledged
            time.sleep(0.01 * kill)
            process.send_signal(signal.SIGKILL)
            rest = process.communicate()[0].split()
            acknowledged = int(rest[-1]) if rest else acknowledged
        with open_gallery(indexed, encoder) as gallery:
            assert len(gallery.records) == gallery.store.count() >= acknowledged > before
            assert gallery.store.ids() == set(gallery.records.by_id)
        assert len(reader.records) >= acknowledged
