"""Galleries that share a server leave each other alone, whatever they are called and whoever is killed."""

from types import SimpleNamespace

import numpy as np
import pytest
from served import milvus_server

from search.files.records import IndexedImage
from search.gallery.address import Address
from search.gallery.gallery import require_buildable
from search.milvus import index_measure
from search.milvus.index_measure import Embeddings, build_and_measure
from search.milvus.store import Store
from utils.errors import UserError

pytest.importorskip("pymilvus")

DIMENSIONS = 4
TAKEN_BEFORE = ["cam_0", "cam_1", "cam_2", "cam_3", "cam_trial", "cam_trial_of_types", "cam_measured", "cam_measured_1"]


@pytest.fixture
def uri(tmp_path):
    with milvus_server(tmp_path / "milvus") as uri:
        yield uri


@pytest.fixture
def opened(uri):
    """Opens an index by its name; all of them are closed at the end."""
    stores = []

    def open_store(name, images=0, create_missing=True):
        stores.append(Store(uri, name, DIMENSIONS, create_missing=create_missing))
        stores[-1].upsert(some(images))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def some(count):
    vectors = np.random.default_rng(0).standard_normal((count, DIMENSIONS)).astype(np.float32)
    return [IndexedImage(f"{n}.jpg", str(n), vector) for n, vector in enumerate(vectors)]


def as_of_an_earlier_version(store, number):
    """Name the collection behind an alias as earlier versions did."""
    name = f"{store.collection}_{number}"
    store.client.rename_collection(store.real_name(store.collection), name)
    assert store.real_name(store.collection) == name
    return name


def test_no_gallery_is_removed_by_another_of_such_a_name(opened, uri, tmp_path, monkeypatch):
    monkeypatch.setattr(index_measure, "in_its_own_process", lambda function, *arguments: function(*arguments))
    cam, others = opened("cam", 2), {name: opened(name, 3 + n) for n, name in enumerate(TAKEN_BEFORE)}
    for images in (3, 4, 5):
        cam.replace(some(images))
        assert cam.count() == images
    cam.require_buildable("HNSW")
    require_buildable(Address.parse(f"{uri}/cam"), SimpleNamespace(dimensions=DIMENSIONS), "HNSW")
    vectors = np.stack([image.embedding for image in some(5)])
    build_and_measure(uri, "cam", "FLAT", Embeddings.write(tmp_path, vectors, vectors), 2)
    assert [store.count() for store in others.values()] == list(range(3, 3 + len(others)))
    assert len(cam.client.list_collections()) == 1 + len(others)


def test_a_gallery_of_an_earlier_version_goes_on(opened, uri):
    cam, other = opened("cam", 2), opened("cam_4", 7)
    before, other_before = as_of_an_earlier_version(cam, 3), as_of_an_earlier_version(other, 1)
    for create_missing in (True, False):
        with pytest.raises(UserError, match=rf"keeps the index of {uri}/cam; .*rebuild --gallery {uri}/cam$"):
            opened(before, create_missing=create_missing)
    cam = opened("cam")
    assert cam.count() == 2
    cam.replace(some(5))
    assert cam.count() == 5 and cam.real_name("cam") == "cam__index_1"
    assert set(cam.client.list_collections()) == {"cam__index_1", other_before} and other.count() == 7
    assert opened(before, 1).count() == 1 and cam.count() == 5  # the name is free now


def test_what_a_killed_process_left_is_built_over(opened, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    cam = opened("cam", 1)
    pymilvus = type(cam.client.client)
    for images, (of, step) in enumerate([(Store, "create"), (Store, "upsert"), (pymilvus, "drop_collection")], 2):
        with monkeypatch.context() as patch:
            patch.setattr(of, step, killed)  # the last when another index has its place
            with pytest.raises(KeyboardInterrupt):
                cam.replace(some(images))
        cam.replace(some(images + 1))
        assert cam.count() == images + 1 and len(cam.client.list_collections()) == 1
    with monkeypatch.context() as patch:
        patch.setattr(pymilvus, "create_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            opened("new")
    assert opened("new", 3).count() == 3 and len(cam.client.list_collections()) == 2


def test_a_collection_with_another_alias_stays(opened):
    cam = opened("cam", 2)
    cam.client.create_alias(cam.real_name("cam"), "kept")
    cam.replace(some(3))
    assert cam.count() == 3 and opened("kept").count() == 2
    taken = opened("x__index_1", 4)  # as a gallery of an earlier version may be called
    opened("x", 5).replace(some(6))
    assert taken.count() == 4 and taken.client.has_collection("x")


def test_no_gallery_has_the_name_of_an_index(uri):
    for name in ("cam__index_1", "cam__index_trial", "__index_"):
        with pytest.raises(UserError, match=r"names with __index_ are those of indices themselves"):
            Address.parse(f"{uri}/{name}")
    assert Address.parse(f"{uri}/cam_index_1").collection == "cam_index_1"
