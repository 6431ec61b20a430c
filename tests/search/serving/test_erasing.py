"""Images are erased from a served gallery for good, also where the disk was full for a moment."""

import pytest

pytest.importorskip("pymilvus")

from search.page.callbacks import Callbacks
from search.page.filters import Filters
from search.page.hits import hits_as_html, surroundings
from search.serving.erasing import erase_image
from utils.errors import NotThere, UserError

SENTENCE = "a woman in a red coat"


def failing(records, monkeypatch, times, after=0):
    """The next writes of records fail `times`, once `after` have not."""
    real, calls = records.storage.write, [0]

    def write(*given, **named):
        calls[0] += 1
        if after < calls[0] <= after + times:
            raise UserError("cannot write: No space left on device")
        return real(*given, **named)

    monkeypatch.setattr(records.storage, "write", write)


def again(searcher):
    """Paths that a gallery holds when it is opened by the next process."""
    return set(type(searcher.gallery.records)(searcher.gallery.records.storage).by_path)


def test_what_could_not_be_erased_is_still_there_and_can_be_erased(searcher, monkeypatch):
    gallery, path = searcher.gallery, next(iter(searcher.gallery.records.by_path))
    failing(gallery.records, monkeypatch, 1)
    with pytest.raises(UserError, match="No space left"):
        erase_image(searcher, path)
    assert path in gallery.records.by_path and path in again(searcher)
    erase_image(searcher, path)
    assert path not in gallery.records.by_path and path not in again(searcher)
    assert path not in {hit.path for hit in searcher.search(SENTENCE, top=1000).hits}


def test_an_erasure_that_was_cut_short_is_finished_by_the_next_try(searcher, monkeypatch):
    gallery, path = searcher.gallery, next(iter(searcher.gallery.records.by_path))
    searcher.search(SENTENCE, top=1000, candidates=1000)
    content = gallery.records.by_path[path].content_key
    assert searcher.tokens.cache.get(content) is not None
    failing(gallery.records, monkeypatch, 1, after=1)  # it is recorded, but earlier files still hold the image
    with pytest.raises(UserError, match="No space left"):
        erase_image(searcher, path)
    assert searcher.tokens.cache.get(content) is None and path not in again(searcher)
    with pytest.raises(NotThere):
        erase_image(searcher, path)
    stored = b"".join(file.read_bytes() for file in (gallery.address.folder / "records").iterdir())
    assert path.encode() not in stored and len(gallery.records.files) == 1


def test_the_page_shows_what_is_left_of_hits_that_were_erased_meanwhile(searcher):
    found = searcher.search(SENTENCE)
    first = found.hits[0].path
    erase_image(searcher, first)
    shown = hits_as_html(searcher.gallery, found.hits, SENTENCE)
    assert shown.count("<li>") == len(found.hits)
    assert len(surroundings(searcher.gallery, first, [first])) == 1  # a grey field
    calls = Callbacks(searcher, Filters(searcher.gallery.columns()))
    assert len(calls.show(found)) == 8
