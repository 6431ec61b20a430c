"""Filters of the page: which fields a gallery has, and what they find together."""

import pytest

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")

from search.gallery.indexing import index
from search.page.filters import Filters, between
from search.serving.api import MAX_FILTER
from utils.errors import UserError

SENTENCE = "a woman in a red coat"
CLOCK = "2024-05-0{day}T1{hour}:00:00"


@pytest.fixture
def timed(searcher):
    """A gallery of cameras c0 and c1, with seconds 0, 10, 20, ... and days as text; by path."""
    paths = sorted(image.path for image in searcher.gallery.records)
    known = {
        path: {"second": 10 * n, "camera": f"c{n % 2}", "date": CLOCK.format(day=1 + n % 3, hour=n % 5)}
        for n, path in enumerate(paths)
    }
    index(searcher.gallery, searcher.encoder, known)
    return searcher, known


def found(searcher, filters, *values):
    where = filters.where(searcher.gallery.columns(), values)
    return {hit.path for hit in searcher.search(SENTENCE, top=1000, candidates=0, where=where).hits}


def test_there_are_fields_for_what_the_gallery_has(timed):
    columns = timed[0].gallery.columns()
    filters = Filters(columns)
    assert (filters.choices, sorted(filters.times)) == (["camera"], ["date", "second"])
    assert Filters({}).choices == Filters({}).times == []
    many = {"shop": ["a"], "hall": ["b"], "floor": [1], "gate": [2], "Camera": [3, 4]}
    assert Filters(many).choices == ["Camera", "shop", "hall", "floor"]  # the camera first
    odd = {"time": ["9:05", "10:00"], "second": [1, "x"], "date": ["1 May"]}  # their order is not that of time
    assert Filters(odd).times == [] and Filters(odd).choices == ["time", "second", "date"]


def test_cameras_times_and_words_hold_together(timed):
    searcher, known = timed
    filters = Filters(searcher.gallery.columns())
    ends = dict.fromkeys(filters.times, (None, None))
    last = 10 * (len(known) - 1)

    def asked(cameras, words="", **bounds):
        values = [value for name in filters.times for value in {**ends, **bounds}[name]]
        return found(searcher, filters, cameras, *values, words)

    def kept(test):
        return {path for path, one in known.items() if test(one)}

    assert asked([]) == set(known)
    assert asked(["c1"]) == kept(lambda one: one["camera"] == "c1")
    assert asked([], second=("20", "")) == kept(lambda one: one["second"] >= 20)
    assert asked(["c0"], second=(" 20 ", str(last - 20))) == kept(
        lambda one: one["camera"] == "c0" and 20 <= one["second"] <= last - 20
    )
    assert asked([], "second < 30 or second > 60", second=("10", None)) == kept(
        lambda one: one["second"] >= 10 and (one["second"] < 30 or one["second"] > 60)
    )
    assert asked([], date=("2024-05-02", "2024-05-02")) == kept(lambda one: one["date"].startswith("2024-05-02"))
    assert asked([], date=("2024-05-02T12", None)) == kept(lambda one: one["date"] >= "2024-05-02T12")
    assert asked(["c7"]) == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("camera ==", "is missing at its end"),
        ("camera == 'c1') or (camera == 'c0'", "is not understood"),
        ("x" * (MAX_FILTER + 1), f"the most are {MAX_FILTER}"),
        ("colour == 'red'", "no metadata are called colour"),
    ],
)
def test_wrong_words_are_told(words, said):
    columns = {"camera": ["c0", "c1"]}
    with pytest.raises(UserError, match=said.replace("(", "\\(")):
        Filters(columns).where(columns, [["c0"], words])


@pytest.mark.parametrize(
    ("values", "text"),
    [([800, 830], "early"), ([800, 830], "8:30"), ([0.5], "1e"), (["2024-05-01"], "830"), (["12:30"], '12" or 1')],
)
def test_times_are_written_as_in_the_gallery(values, text):
    for bounds in ((text, ""), ("", text)):
        with pytest.raises(UserError, match=r"such as .* and is not compared with"):
            between("time", values, *bounds)


def test_no_bound_is_no_filter():
    assert between("time", [1, 2], None, " ") == ""
    assert between("time", [1, 2], "-3", "4.5") == "time >= -3 and time <= 4.5"


def test_a_column_that_is_gone_is_in_nobodys_way(timed):
    searcher, _ = timed
    filters, values = Filters(searcher.gallery.columns()), [[], None, None, None, None, ""]
    assert filters.where({}, values) == ""
    first = f"{filters.times[0]} from"
    with pytest.raises(UserError, match=f"no image has {filters.times[0]} any more; leave {first} and to empty"):
        filters.where({}, [[], "20", None, None, None, ""])


def test_a_choice_may_have_any_characters(searcher):
    odd = ["a\x01b", "line\nfeed", 'qu"ote', "back\\slash"]
    paths = sorted(image.path for image in searcher.gallery.records)[: len(odd)]
    index(searcher.gallery, searcher.encoder, {path: {"gate": one} for path, one in zip(paths, odd, strict=True)})
    filters = Filters(searcher.gallery.columns())
    for path, one in zip(paths, odd, strict=True):
        assert found(searcher, filters, [one], "") == {path}
