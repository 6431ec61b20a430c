"""A filter that compares text with numbers is an error that says what the column holds, and no other filter is one."""

import re

import pytest
from benchmark_data import REPOSITORY

from search.filters import check_filter
from search.metadata import read_metadata
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
        ("800 < time < '900'", NUMBERS + "time < 900"),
        ("'800' < time < 900", NUMBERS + "800 < time"),
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
        ("array_contains(camera, 1) or time == '830'", NUMBERS + "time == 830"),
        ("camera like '%(' and time == '830'", NUMBERS + "time == 830"),
        ("time between 800 and 900", "there is no between; write such as 800 <= time and time <= 900"),
        ("bogus == 1", "no metadata are called bogus"),
        ("$meta['bogus'] == 1", "no metadata are called bogus"),
        ("camera == c1", "(text is written 'c1')"),
    ],
)
def test_what_finds_nothing_is_told(where, words):
    with pytest.raises(UserError) as told:
        check_filter(where, COLUMNS)
    assert str(told.value) == f"the filter {where!r} is not understood: {words}" or words.startswith(("no ", "("))
    assert words in str(told.value)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "time == 830",
        "time == 830.0 or share == 1",
        "8.3e2 == time and time > -5 and 1e5 > time",
        "830 <= time < 900",
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
        "array_contains(camera, 1) and json_contains(time, 'a', (1))",
        "any == 1 or any == '1' or truth == true or none == 1",
        "id == 5 or path like 'cam1/%'",
        "path + 1 == time",
        "time == {time} and time == '830'",  # what is not understood is left to Milvus, with the rest
        "time ==",
        "time in ['830'",
        "camera[0] == 5",
        "'830",
        "(" * 5000,
        "$meta[",
        "== '5'",
        "'1' == 1",
    ],
)
def test_what_can_find_something_or_is_not_decided_is_left_to_milvus(where):
    check_filter(where, COLUMNS | MIXED)


def test_the_example_of_the_manual_works_as_shown(tmp_path):
    page = (REPOSITORY / "docs" / "search.md").read_text(encoding="utf-8")
    table = re.search(r"```\n(image,camera,time\n.*?)```", page, re.DOTALL)
    where = re.search(r'--where "(.*?)"', page)
    (tmp_path / "m.csv").write_text(table[1])
    (values,) = read_metadata(tmp_path / "m.csv").values()
    assert values == {"camera": "c1", "time": 830}
    check_filter(where[1], {name: [value] for name, value in values.items()})
