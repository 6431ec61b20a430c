"""Cleaning of captions, and the map from cleaned to annotated characters."""

import random

import pytest

from dataset.captions import clean_caption, clean_caption_with_offsets


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The man wears a red coat, grey jeans.", "the man wears a red coat grey jeans"),
        ("A dark-blue T-shirt and white/grey shoes", "a dark blue t shirt and white grey shoes"),
        ("She's carrying a woman's \"bag\"!?", "shes carrying a womans bag"),
        ("(one) *two* #three: four; ~five", "one two three four five"),
        ("A <person> and a <PERSON>.", "a person and a person"),
        ("a <man>", "a <man>"),
        ("  a\t red \n\n coat - ", "a red coat"),
        ("a naïve CAFÉ", "a naïve café"),
        ("coat,grey", "coatgrey"),
        ("", ""),
        (" .,- ", ""),
        ("a broken \ud83d coat", "a broken coat"),
    ],
)
def test_cleaning_follows_the_published_rules(text, cleaned):
    assert clean_caption(text, 75) == cleaned


def test_the_first_words_are_kept():
    assert clean_caption("A red-brown coat, and jeans", 3) == "a red brown"
    assert clean_caption("A red-brown coat, and jeans", 6) == "a red brown coat and jeans"
    assert clean_caption("A red-brown coat, and jeans", None) == "a red brown coat and jeans"


def test_offsets_point_to_the_character_each_came_from():
    #        0123456789
    text = "A  <Person>'s T-shirt."
    cleaned, origins = clean_caption_with_offsets(text, 75)
    assert cleaned == "a persons t shirt"
    assert origins == [0, 1, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20]


def test_offsets_survive_letters_that_grow_in_lower_case():
    cleaned, origins = clean_caption_with_offsets("İ am", 75)  # its lower case is i and a combining dot
    assert cleaned == "i̇ am"
    assert origins == [0, 0, 1, 2, 3]


def test_punctuation_can_be_kept_for_a_parser():
    cleaned, origins = clean_caption_with_offsets("A <person>, his T-shirt!", 75, keep_punctuation=True)
    assert cleaned == "a person, his t shirt!"
    assert origins[cleaned.index(",")] == 10


def test_cleaning_with_offsets_equals_plain_cleaning():
    pieces = [*"aBΣİß ,.'!?\"()*#:;~-/\t\n\u00a0\u3000\u2028😀\ud83d<>", "<person>", "<PERSON>"]
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choice(pieces) for _ in range(draw.randint(0, 14)))
        for max_words in (None, 0, 1, 3):
            cleaned, origins = clean_caption_with_offsets(text, max_words)
            assert cleaned == clean_caption(text, max_words)
            assert len(origins) == len(cleaned)
            assert origins == sorted(origins)
