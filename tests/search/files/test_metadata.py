"""What is a number in a column of metadata, and what is text."""

import unicodedata

import pytest

from search.files.metadata import read_metadata, typed
from utils.errors import UserError


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "20", "-3", "0"], [1, 20, -3, 0]),
        (["1", "", " 2 ", "  "], [1, None, 2, None]),
        (["1.5", "2", "-0.25"], [1.5, 2.0, -0.25]),
        (["a", "1"], ["a", "1"]),
        (["", " "], [None, None]),
        (["0", "0.5"], [0.0, 0.5]),
        ([str(2**63 - 1), "0"], [2**63 - 1, 0]),
        ([str(2**63), "0"], [str(2**63), "0"]),
    ],
)
def test_a_column_has_one_type(cells, expected):
    found = typed(cells)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize(
    "cell",
    [
        "1_1",
        "2024_01_05",
        "12e4",
        "1E5",
        "007",
        "-01",
        "00.5",
        "+5",
        "5.",
        ".5",
        "nan",
        "inf",
        "-Infinity",
        "0x10",
        "1,5",
        "1 000",
        "\u0661\u0662",  # Arabic digits
        "\uff11\uff12",  # digits of full width
        "\u00b2",
        "\u22125",  # a minus sign that is no hyphen
        "1e999",
        "9" * 30,
        "9" * 400,
        "9" * 5000,  # more than Python makes a number of
        f"-{'9' * 5000}.5",
    ],
)
def test_what_is_not_plainly_a_number_makes_the_column_text(cell):
    assert typed([cell, "11"]) == [cell, "11"]


@pytest.mark.parametrize(
    "cells",
    [
        ["1.1", "1.10"],
        ["1", "1.0"],
        ["0", "-0"],
        ["0.1234567890123456789", "0.1234567890123456788"],
        ["9007199254740993", "9007199254740992.0"],
    ],
)
def test_cells_that_would_become_the_same_number_stay_apart(cells):
    assert typed(cells) == cells


def test_the_same_number_twice_is_a_number():
    assert typed(["11", "12", "11"]) == [11, 12, 11]


def test_zones_and_days_are_told_apart(tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("image,zone,day\na.jpg,1_1,2024_01_05\nb.jpg,1_2,2024_01_06\nc.jpg,11,2024_01_07\n")
    found = read_metadata(table)
    assert [found[f"{name}.jpg"]["zone"] for name in "abc"] == ["1_1", "1_2", "11"]
    assert found["a.jpg"]["day"] == "2024_01_05"


def test_a_table_without_rows_is_refused(tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("image,zone\n")
    with pytest.raises(UserError, match="a header and no rows"):
        read_metadata(table)


@pytest.mark.parametrize("name", ["K\u00e4fig", "Ka\u0308fig", "\u30ab\u30e1\u30e9", "_c1"])
def test_columns_may_be_named_in_any_script(tmp_path, name):
    (tmp_path / "m.csv").write_text(f"image,{name}\na.jpg,c1\n", encoding="utf-8")
    assert read_metadata(tmp_path / "m.csv") == {"a.jpg": {unicodedata.normalize("NFC", name): "c1"}}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("the camera", "no filter can name column 'the camera'; rename it: .* such as the_camera"),
        ("camera-id", "such as camera_id"),
        ("K\u00e4fig (m\u00b2)", "such as K\u00e4fig_m"),
        ("1st", "no digit first, such as column_1st"),
        ("%", "such as column"),
        ("id", "must be renamed: the gallery itself has such a name"),
        ("Between", "must be renamed: it is a word of filters"),
    ],
)
def test_columns_that_no_filter_can_name_are_told(tmp_path, name, words):
    (tmp_path / "m.csv").write_text(f"image,{name}\na.jpg,c1\n", encoding="utf-8")
    with pytest.raises(UserError, match=words):
        read_metadata(tmp_path / "m.csv")
