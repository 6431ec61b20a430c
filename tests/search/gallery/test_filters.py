"""A filter that compares text with numbers is an error that says what the column holds, and no other filter is one."""

import re
import unicodedata

import numpy as np
import pytest
from benchmark_data import REPOSITORY

from search.files.metadata import read_metadata
from search.gallery.filters import check_filter
from utils.errors import UserError

COLUMNS = {"time": [830, 900, 1200], "share": [0.5, 1.0], "camera": ["c1", "c2"], "hour": ["0830", "900"]}
MIXED = {"any": [1, "a"], "truth": [True, False], "none": []}

NUMBERS = "time holds numbers; write "
SUCH = "time holds numbers, such as 830"
TEXT = "hour holds text, such as '0830'"


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("time == '830'", NUMBERS + "time == 830"),
        ('time == "830"', NUMBERS + "time == 830"),
        ("time != '830'", NUMBERS + "time != 830"),
        ("time > '800'", NUMBERS + "time > 800"),
        ("time>='800'", NUMBERS + "time >= 800"),
        ("time < '-8.5'", NUMBERS + "time < -8.5"),
        ("time <= ' 800 '", NUMBERS + "time <= 800"),
        ("'830' == time", NUMBERS + "830 == time"),
        ("(time) == ('830')", NUMBERS + "time == 830"),
        ("'800' < time < 900", NUMBERS + "800 < time"),
        ("800 < time < 900", "compare two at a time: write 800 < time and time < 900"),
        ("(-5) <= time + 1 < share", "write (- 5) <= time + 1 and time + 1 < share"),
        ("camera == 'c1' and 9 > time >= 8 or time == 1", "write 9 > time and time >= 8"),
        ("time in ['830', '900']", NUMBERS + "time in [830, 900]"),
        ("time in ['830', 900]", NUMBERS + "time in [830, 900]"),
        ("time not in ['830']", NUMBERS + "time not in [830]"),
        ("time NOT IN ['830',]", NUMBERS + "time not in [830]"),
        ("$meta['time'] == '830'", NUMBERS + "$meta['time'] == 830"),
        ("time == '0830'", SUCH),
        ("time == 'noon'", SUCH),
        ("time == ''", SUCH),
        ("time == true", SUCH),
        ("time in [830, 'noon']", SUCH),
        ("time like '8%'", SUCH + ", and like compares text"),
        ("time + 1 == 'a'", SUCH),
        ("-time == '830'", NUMBERS + "-time == 830"),
        ("share == '0.5'", "share holds numbers; write share == 0.5"),
        ("hour < 900", TEXT),
        ("hour == 830", TEXT),
        ("900 > hour", TEXT),
        ("hour in [830]", TEXT),
        ("hour in ['0830', 900]", TEXT),
        ("hour == false", TEXT),
        ("hour * 2 > 5", TEXT + ", and arithmetic needs numbers"),
        ("time == camera", SUCH + ", and camera holds text, such as 'c1'"),
        ("camera == 'c1' and time < '900'", NUMBERS + "time < 900"),
        ("camera == 'c1' or (time == 830 and not (hour >= 8))", TEXT),
        ("not time == '830'", NUMBERS + "time == 830"),
        ("!(time == '830') && camera == 'c1'", NUMBERS + "time == 830"),
        ("camera like '%(' and time == '830'", NUMBERS + "time == 830"),
        ("time between 800 and 900", "there is no between; write such as 800 <= time and time <= 900"),
        ("camera == \u201cc1\u201d", 'quotes are \' or ", not \u201c; write camera == "c1"'),
        ("camera == \u2018c1\u2019", "write camera == 'c1'"),
        ("camera == \u00abc1\u00bb", 'write camera == "c1"'),
        ("camera == `c1`", "write camera == 'c1'"),
        ("camera == 'c1", "a quote ' is not closed"),
        ('camera == "c1', 'a quote " is not closed'),
        ("'830", "a quote ' is not closed"),
        ("camera == 'it's'", "a quote ' is not closed; text is written 'c1', and a quote within it \\'"),
        ("Camera == 'c1'", "no metadata are called Camera (did you mean 'camera'?)"),
        ("TIME > 5", "(did you mean 'time'?)"),
        ("camera == null", "write camera is null"),
        ("time != NULL", "write time is not null"),
        ("camera is 'c1'", "write is null, or is not null"),
        (
            "time == 99999999999999999999",
            "99999999999999999999 is too large; the largest is 9223372036854775807",
        ),
        ("time > -9223372036854775808", "is too large"),
        ("time == 1e400", "the number 1e400 is too large"),
        ("time == 8_3", "8_3 is not a number"),
        ("time == 0x33E", "0x33E is not a number"),
        ("share > .5", ".5 is not a number; write such as 830, 0.5"),
        ("time == 8.3.0", "8.3.0 is not a number"),
        ("json_contains(camera, 'c1')", "there are no functions such as json_contains"),
        ("array_contains(camera, 1) or time == 8", "there are no functions such as array_contains"),
        ("time == abs (5)", "there are no functions such as abs"),
        ("camera = 'c1'", "there is no =; write =="),
        ("camera <> 'c1'", "there is no <>; write !="),
        ("time & 1 == 1", "there is no &; write and"),
        ("time % 2 == 1", "there is no %; arithmetic is + - * /"),
        ("time ** 2 == 1", "there is no **; arithmetic"),
        ("camera == 'c1';", "there is no ;"),
        ("time == {time}", "there is no {"),
        ("time ==", "something is missing at its end"),
        ("camera == 'c1' and", "something is missing at its end"),
        ("== '5'", "a name or a value is missing before =="),
        ("time in ['830'", "a bracket [ is not closed"),
        ("time in (830, 900)", "values stand in square brackets"),
        ("camera[0] == 5", "camera is no list"),
        ("(time == 8", "a bracket ( is not closed"),
        ("time == 8)", "a bracket ) is closed that was not opened"),
        ("time", "time is compared with nothing"),
        ("time and camera == 'c1'", "time is compared with nothing"),
        ("not camera", "camera is compared with nothing"),
        ("time == 830 camera == 'c1'", "there is no and or or before camera"),
        ("$meta[", 'write $meta["time"], or time alone'),
        ("(" * 50, "is missing"),
        ("bogus == 1", "no metadata are called bogus"),
        ("$meta['bogus'] == 1", "no metadata are called bogus"),
        ("camera == c1", "(text is written 'c1')"),
    ],
)
def test_what_finds_nothing_is_told(where, words):
    with pytest.raises(UserError) as told:
        check_filter(where, COLUMNS)
    assert str(told.value).startswith("the filter ") and "\n" not in str(told.value)
    assert words in str(told.value)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "time == 830",
        "time == 830.0 or share == 1",
        "8.3e2 == time and time > -5 and 1e5 > time",
        "time in [830, 900.5]",
        "time in []",
        "time + 1 == 831 and (time - 30) / 2 > 1",
        "time < share",
        "hour < '900' and camera == hour",
        "hour in ['0830', \"900\"]",
        "camera like 'c%' and not (camera == \"time == 'x'\")",
        "camera == 'it\\'s 5' or camera == '830'",
        "camera is null or time is not null or exists time",
        "time == 830 AND NOT camera IN ['c1'] || !(time == 900)",
        "any == 1 or any == '1' or truth == true or none == 1",
        "id == 5 or path like 'cam1/%'",
        "camera == '\u201cc1\u201d'",
        "path + 1 == time",
        "'1' == 1",
    ],
)
def test_what_can_find_something_stays_as_it_is(where):
    assert check_filter(where, COLUMNS | MIXED) == where


def test_many_brackets_are_told():
    with pytest.raises(UserError, match="has too many brackets"):
        check_filter("(" * 5000 + "time == 8" + ")" * 5000, COLUMNS)


def test_a_filter_of_nothing_is_none():
    assert check_filter(" \n", COLUMNS) == ""


@pytest.mark.parametrize(
    "name", ["K\u00e4fig", "\u30ab\u30e1\u30e9", "\u043a\u0430\u043c\u0435\u0440\u0430", "\u0915\u0940"]
)
def test_names_of_any_script_are_sent_in_the_long_form(name):
    where = f"exists {name} and {name} == 'a' and not (time > -5)"
    sent = f'exists $meta["{name}"] and $meta["{name}"] == \'a\' and not ( time > - 5 )'
    assert check_filter(where, COLUMNS | {name: ["a"]}) == sent
    assert check_filter(unicodedata.normalize("NFD", where), COLUMNS | {name: ["a"]}) == sent


def test_no_message_of_milvus_about_a_place_in_the_filter_is_shown(searcher):
    searcher.gallery.store.search(np.zeros(searcher.encoder.dimensions), 1, "camera is not null")
    with pytest.raises(UserError) as told:
        searcher.gallery.store.search(np.zeros(searcher.encoder.dimensions), 1, "camera = 'c1'")
    assert "column" not in str(told.value) and "^" not in str(told.value)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("camera is not null and camera != 'c1'", 2),
        ("camera in ['c1', 'c2'] or camera like 'c0%'", 3),
        ("camera == '\u201cc1\u201d' or not (camera == 'c0')", 2),
    ],
)
def test_milvus_understands_what_is_let_through(searcher, where, count):
    cameras = {hit.metadata["camera"] for hit in searcher.search("a man", where=where, candidates=0, top=100).hits}
    assert len(cameras) == count


def test_the_example_of_the_manual_works_as_shown(tmp_path):
    page = (REPOSITORY / "docs" / "search.md").read_text(encoding="utf-8")
    table = re.search(r"```\n(image,camera,time\n.*?)```", page, re.DOTALL)
    where = re.search(r'--where "(.*?)"', page)
    (tmp_path / "m.csv").write_text(table[1])
    (values,) = read_metadata(tmp_path / "m.csv").values()
    assert values == {"camera": "c1", "time": 830}
    check_filter(where[1], {name: [value] for name, value in values.items()})
