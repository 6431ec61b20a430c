"""What `benchmark` says of an index is what counting by hand says."""

import json

import numpy as np
import pytest
from in_process import call

from search.__main__ import main
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.gallery.sample_sentences import sample_sentences
from search.milvus.index_measure import Embeddings, recall_of, worst_right
from search.milvus.index_types import INDEX_TYPES

pytest.importorskip("pymilvus")


def test_the_last_right_one_is_that_of_a_sorted_list(monkeypatch):
    monkeypatch.setattr("search.milvus.index_measure.AT_ONCE", 7)  # which does not divide the number of images
    draw = np.random.default_rng(0)
    images, queries = draw.standard_normal((50, 4), np.float32), draw.standard_normal((3, 4), np.float32)
    for k in (1, 10, 50):
        expected = [sorted((float(image @ query) for image in images), reverse=True)[k - 1] for query in queries]
        assert worst_right(images, queries, k) == pytest.approx(expected, abs=1e-6)


def test_recall_counts_the_right_ones_and_copies_of_them(tmp_path):
    # four images on a line of falling cosines to the query (1, 0), and a copy of the second
    angles = np.array([0.1, 0.2, 0.3, 0.4, 0.2])
    images = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    kept = Embeddings.write(tmp_path, images, np.array([[1, 0]], np.float32), list("abcde"))

    def recall(found, k):
        return recall_of([[("", path, 0.0) for path in found]], kept, k)

    assert recall("ab", 2) == 1 and recall("ae", 2) == 1  # e is as near as b
    assert recall("ac", 2) == 0.5 and recall("cd", 2) == 0 and recall("", 2) == 0
    assert recall("aa", 2) == 0.5  # the same one twice is one
    assert recall("abcde", 128) == 1  # all that there are


def test_sentences_are_different_and_the_same_each_time():
    texts = sample_sentences(300)
    assert len(set(texts)) == 300 and texts == sample_sentences(300) and texts[0] != sample_sentences(1, seed=1)[0]
    assert all(text.startswith("a ") and " in a" in text for text in texts) and not any(" a orange" in t for t in texts)


def test_the_command_measures_the_index_and_every_other_type(searcher, photos, tmp_path, monkeypatch):
    some = {name: INDEX_TYPES[name] for name in ("IVF_SQ8", "DISKANN")}  # each is built by a new process
    monkeypatch.setattr("search.gallery.benchmark.INDEX_TYPES", some)
    images, place = len(searcher.gallery.records), tmp_path / "copied"
    with open_gallery(str(place), searcher.encoder, photos) as gallery:
        index(gallery, searcher.encoder)
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    (tmp_path / "asked.txt").write_text("a man in a red coat\n\na woman\n")
    asked = ["--gallery", place, "--sentences", tmp_path / "asked.txt", "--candidates", "5"]
    ending = call(main, "benchmark", "--every_type", "--json", *asked)
    assert ending.code == 0, ending.errors
    found = json.loads(ending.output)
    in_use, built = found["in_use"], {row["index_type"]: row for row in found["built"]}
    assert (in_use["index_type"], in_use["images"], in_use["k"], in_use["build"]) == ("FLAT", images, 5, None)
    assert in_use["recall"] == 1 and 0 < in_use["median"] <= in_use["p99"] and in_use["disk"] > 0
    assert set(built) == {"IVF_SQ8"} and "left out: DISKANN: " in ending.errors
    assert all(row["build"] > 0 and row["recall"] > 0.5 and row["images"] == images for row in built.values())
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before  # nothing is left there
    for wrong, words in (
        (["--queries", "0"], "--queries must be 1 or more"),
        (["--candidates", "0"], "--candidates must be from 1"),
        (["--sentences", tmp_path / "none.txt"], "cannot be read"),
    ):
        refused = call(main, "benchmark", *asked, *wrong)
        assert refused.code == 2 and words in refused.errors and refused.errors.count("\n") == 1
