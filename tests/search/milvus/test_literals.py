"""Text of any characters is found by the filters that are made of it."""

import numpy as np
import pytest

from search.files.records import PATH, IndexedImage
from search.gallery.filters import check_filter
from search.milvus.literals import literal, literals
from search.milvus.store import Store

pytest.importorskip("pymilvus")

ODD = [
    *map(chr, range(1, 33)),
    *"\x7f\x85\u2028\u00fc\u65e5\U0001f600",
    *("\"'", "'\"", "\\", "\\\\n", "\\u0001", 'a"b', "c\\", "%_", "$meta", "{x}", "\r\n", "tab\t and\x01control"),
]


@pytest.fixture
def store(tmp_path):
    opened = Store(str(tmp_path / "index.db"), "gallery", 4)
    try:
        vector = np.eye(1, 4, dtype=np.float32)[0]
        opened.upsert([IndexedImage(f"{odd}.png", str(n), vector, {"note": odd}) for n, odd in enumerate(ODD)])
        yield opened
    finally:
        opened.close()


def test_paths_with_any_characters_are_found(store):
    for odd in ODD:
        assert [image.path for image in store.images_where(PATH, f"{odd}.png")] == [f"{odd}.png"]


def test_metadata_with_any_characters_are_found(store):
    columns = {"note": ODD}
    for odd in ODD:
        assert store.count(check_filter(f"note == {literal(odd)}", columns)) == 1
    assert store.count(check_filter(f"note in {literals(ODD)}", columns)) == len(ODD)
    assert literals([1, 0.5, True, "a"]) == '[1, 0.5, true, "a"]'
