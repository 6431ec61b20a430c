"""Numbers of things in messages."""

import re
from pathlib import Path

import pytest
from benchmark_data import REPOSITORY

from utils.text import agreeing, counted, shorten

ROOMS = ("configs", "dataset", "evaluation", "models", "search", "utils")
ONE = r"(?<![.\w])1 (?:images|rows|captions|identities|epochs|words|cells|tensors|problems|people) "


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1200, "1200 images"), (-1, "-1 images")]
)
def test_one_thing_has_no_s(number, expected):
    assert counted(number, "image") == expected


def test_words_agree_with_numbers():
    assert [counted(n, "identity", "identities") for n in (1, 2)] == ["1 identity", "2 identities"]
    assert [agreeing(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]


def test_a_long_text_is_cut():
    assert (shorten("a" * 80), shorten("a" * 81), shorten("abcdef", 5)) == ("a" * 80, "a" * 77 + "...", "ab...")


def sources() -> list[Path]:
    return [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]


def test_no_message_says_1_of_several_things():
    wrong = [f"{path}: {found}" for path in sources() for found in re.findall(ONE, path.read_text(encoding="utf-8"))]
    assert not wrong
