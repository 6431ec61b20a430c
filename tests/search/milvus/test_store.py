"""The index finds what an exact search finds, whatever it is built as, and keeps what it holds."""

import numpy as np
import pytest

from search.files.records import IndexedImage
from search.milvus import index_types, store
from search.milvus.client import milvus_errors
from utils.errors import Unavailable, UserError

pytest.importorskip("pymilvus")


def records(count, size=16):
    vectors = np.random.default_rng(0).standard_normal((count, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [IndexedImage(f"{n}.jpg", str(n), vector, {"half": n % 2}) for n, vector in enumerate(vectors)]


def exact(of, query, count):
    return sorted(of, key=lambda record: -float(record.embedding @ query))[:count]


@pytest.mark.parametrize(("exact_below", "index_type"), [(10_000, index_types.EXACT), (1000, index_types.GRAPH)])
def test_the_nearest_are_found_by_either_index(tmp_path, monkeypatch, exact_below, index_type):
    monkeypatch.setattr(index_types, "EXACT_BELOW", exact_below)
    held, query = records(3000), records(3001)[-1].embedding
    opened = store.Store(str(tmp_path / "index.db"), "gallery", 16)
    try:
        opened.upsert(held)
        opened.finish()
        assert opened.index_type == index_type and opened.describe_index()["index_type"] == index_type
        expected = [record.path for record in exact(held, query, 100)]
        found = opened.search(query, 100)
        assert len({path for _, path, _ in found} & set(expected)) >= 98 and found[0][1] == expected[0]
        similarity = [value for _, _, value in found]
        assert similarity == sorted(similarity, reverse=True)
        assert similarity[0] == pytest.approx(float(exact(held, query, 1)[0].embedding @ query), abs=1e-5)
        odd = opened.search(query, 50, "half == 1")
        assert odd[0][1] == exact([r for r in held if r.metadata["half"]], query, 1)[0].path
        opened.remove([held[0].id])
        assert opened.count() == 2999 and held[0].id not in opened.ids()
    finally:
        opened.close()
    again = store.Store(str(tmp_path / "index.db"), "gallery", 16)
    try:
        assert again.index_type == index_type and len(again.search(query, 100)) == 100
        again.replace([])
        assert again.index_type == index_types.EXACT and again.count() == 0
    finally:
        again.close()


def test_a_graph_is_built_as_it_was_asked_for(tmp_path, monkeypatch):
    """Milvus Lite leaves out what it does not understand, without a word."""
    monkeypatch.setattr(index_types, "EXACT_BELOW", 10)
    opened = store.Store(str(tmp_path / "index.db"), "gallery", 16)
    try:
        opened.upsert(records(100))
        opened.finish()
        assert opened.describe_index()["params"] == index_types.graph_parameters(100)
    finally:
        opened.close()


def test_errors_of_milvus_are_one_line(tmp_path):
    with pytest.raises(Unavailable, match=r"^it failed: two lines$"), milvus_errors("it failed"):
        raise RuntimeError("two\n  lines")
    with pytest.raises(UserError, match=r"^it failed: no$") as asked, milvus_errors("it failed", kind=UserError):
        raise RuntimeError("no")
    assert not isinstance(asked.value, Unavailable)
    with pytest.raises(UserError, match=r"^mine$"), milvus_errors("it failed"):
        raise UserError("mine")
    with pytest.raises(KeyboardInterrupt), milvus_errors("it failed"):
        raise KeyboardInterrupt
    opened = store.Store(str(tmp_path / "index.db"), "gallery", 16)
    opened.close()
    with pytest.raises(Unavailable, match=rf"^the index {tmp_path}/index.db fails \(count; python -m search rebuild"):
        opened.count()
    with pytest.raises(Unavailable, match=r"^the search failed: "):
        opened.search(np.zeros(16), 1)


def test_an_index_that_cannot_be_opened_is_not_held_open(tmp_path, monkeypatch):
    closed, close = [], store.Store.close
    monkeypatch.setattr(store.Store, "close", lambda opened: closed.append(close(opened)))
    with pytest.raises(UserError, match="has no index gallery"):
        store.Store(str(tmp_path / "index.db"), "gallery", 16, create_missing=False)
    assert len(closed) == 1


def test_an_idle_connection_is_not_pinged(tmp_path, monkeypatch):
    """Servers close those that are pinged more often than every five minutes, and grpc prints that as an error."""
    import grpc

    opened, real = [], grpc.insecure_channel
    monkeypatch.setattr(
        grpc, "insecure_channel", lambda *of, **more: opened.append(more["options"]) or real(*of, **more)
    )
    store.Store(str(tmp_path / "index.db"), "gallery", 16).close()
    assert opened
    for options in map(dict, opened):
        assert options["grpc.keepalive_permit_without_calls"] == 0 and options["grpc.keepalive_time_ms"] > 300_000
