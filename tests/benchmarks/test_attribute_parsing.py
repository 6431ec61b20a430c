"""The benchmark of attributes: both ways find the same, and parsing is counted."""

import pytest

from benchmarks.attributes import (
    as_text,
    captions_of,
    count_equal,
    count_parses,
    counted_parsing,
    draw_entries,
    find,
    load_whole_pipeline,
    plain_attributes,
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return draw_entries(folder, 60), folder


@pytest.fixture(scope="module")
def nlp():
    return load_whole_pipeline()


def test_there_are_as_many_distinct_captions_as_asked_for(drawn):
    captions = captions_of(drawn[0], 60)
    assert len(set(captions)) == 60


def test_the_plain_way_by_hand(nlp):
    caption = "A woman with a red coat, grey jeans and a dark-blue bag."
    assert plain_attributes(nlp, caption) == ["red coat", "grey jeans", "dark blue bag"]
    assert as_text(caption, find([caption])[caption]) == ["red coat", "grey jeans", "dark blue bag"]


def test_both_ways_find_the_same(drawn, nlp):
    captions = captions_of(drawn[0], 60)
    assert count_equal(nlp, captions) == 60
    assert any(plain_attributes(nlp, caption) for caption in captions)


def test_every_reading_is_counted(nlp):
    with counted_parsing() as count:
        nlp("a red coat")
        list(nlp.pipe(["a red coat", "a blue coat"]))
    assert count.value == 3


def test_captions_are_parsed_in_the_first_call_only(drawn):
    entries, folder = drawn
    captions = {caption for entry in entries for caption in entry.captions}
    samples = sum(len(entry.captions) for entry in entries)
    assert count_parses(entries, folder, 8) == {
        "first call": len(captions),
        "second call": 0,
        f"{samples // 8} training batches": 0,
    }
