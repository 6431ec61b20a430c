"""A tiny trained model, photos to search, and a gallery of them."""

import shutil

import pytest
from in_process import retrieve

from search.encoder import Encoder
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.searcher import Searcher


@pytest.fixture(scope="session")
def trained(benchmark, tmp_path_factory):
    """The best checkpoint of a tiny run."""
    output = tmp_path_factory.mktemp("searched") / "run"
    retrieve(output, benchmark, settings=["max_steps=3"])
    return output / "checkpoint_best.pth"


@pytest.fixture(scope="session")
def encoder(trained):
    return Encoder.open(trained)


@pytest.fixture
def photos(benchmark, tmp_path):
    """A folder of one's own photos: a copy of the benchmark's test images."""
    shutil.copytree(benchmark / "imgs" / "test", tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def searcher(encoder, photos, tmp_path):
    """A searcher of an indexed gallery with a column `camera`."""
    with open_gallery(str(tmp_path / "gallery"), encoder, photos) as gallery:
        names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
        index(gallery, encoder, {name: {"camera": f"c{place % 3}"} for place, name in enumerate(names)})
        yield Searcher(encoder, gallery)
