"""Cleaning of captions, and the map from cleaned to annotated characters."""

import random

import pytest

from dataset.annotations import Entry, read_captions
from dataset.captions import (
    clean_caption,
    clean_caption_with_offsets,
    plain_text,
    spans_when_cleaned,
    word_numbers,
)


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


# ---- what people type ----


@pytest.mark.parametrize(
    ("typed", "cleaned"),
    [
        ("red coat,blue jeans", "red coat blue jeans"),
        ("white shirt.he has black trousers.white shoes", "white shirt he has black trousers white shoes"),
        ("jeans;black shoes:no hat!a bag?yes", "jeans black shoes no hat a bag yes"),
        ('a shirt(white) and "red"boots,"new",too', "a shirt white and red boots new too"),
        ("a <person>,old", "a person old"),
        ("2 bags,1 hat, number 3.he", "2 bags 1 hat number 3 he"),
        ("coat\u2026blue\u2022grey|red_green", "coat blue grey red green"),
        ("a woman\u2019s bag, woman\u00b4s, woman`s", "a womans bag womans womans"),
        ("T\u2011shirt, dark\u2013blue, red \u2014 grey\u2212green", "t shirt dark blue red grey green"),
        ("\u201cred\u201d \u00abold\u00bb coat", "red old coat"),
        ("back\u00adpack, \ufeffred\u200d \u202acoat\u202c\ufe0f", "backpack red coat"),
        ("re\x00d\x1b coat\tnew\x85old", "red coat new old"),
        ("red\u200bcoat", "red coat"),  # a space of no width is one
        ("\uff52\uff45\uff44\u3000coat\uff0c\ufb02at shoes", "red coat flat shoes"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u7ea2\u8272\u5916\u5957\uff0c\u84dd\u8272\u3002", "\u7ea2\u8272\u5916\u5957 \u84dd\u8272"),
        ("1.75 m, 1,000 at 10:30", "175 m 1000 at 1030"),
        ("shoes, e.g. boots, at 9 a.m. in the U.S.", "shoes eg boots at 9 am in the us"),
        ("rock'n'roll, don't", "rocknroll dont"),
        (
            "coat\U0001f600blue \u2605red\u2192grey\u00a6old\u00d7new",
            "coat \U0001f600 blue \u2605 red \u2192 grey \u00a6 old \u00d7 new",
        ),
        ("\U0001f44d\U0001f3fdcoat", "\U0001f44d \U0001f3fd coat"),  # a hand, and the colour of its skin
        ("Nike\u2122shoes, Puma\u00ae,20\u20accap", "nike tm shoes puma \u00ae 20 \u20ac cap"),
        ("175\u339d, 30\u2103", "175 cm 30 \u00b0 c"),
        ("\u24e1\u24d4\u24d3 \U0001d42b\U0001d41e\U0001d41d coat\u2800old", "red red coat old"),
        (
            "\u0938\u093e\u0921\u093c\u0940,\u0915\u093e\u0932\u093e",
            "\u0938\u093e\u0921\u093c\u0940 \u0915\u093e\u0932\u093e",
        ),
        (
            "\u0e40\u0e2a\u0e37\u0e49\u0e2d\u0e2a\u0e35.\u0e41\u0e14\u0e07",
            "\u0e40\u0e2a\u0e37\u0e49\u0e2d\u0e2a\u0e35 \u0e41\u0e14\u0e07",
        ),
        ("re\u0336d\u0336,old q\u0303.new", "re\u0336d\u0336 old q\u0303 new"),  # marks that no letter is made of
        ("...", ""),
    ],
)
def test_what_people_type_is_read_as_it_is_meant(typed, cleaned):
    assert clean_caption(plain_text(typed), None) == cleaned
    assert plain_text(plain_text(typed)) == plain_text(typed)


@pytest.mark.parametrize("text", ["A woman's dark-blue T-shirt, and (grey/white) shoes: 1.75 m!", "a <person>.", ""])
def test_what_is_plain_stays_as_it_is(text):
    assert plain_text(text) == text


def test_captions_are_read_by_the_configured_rules():
    entries = [Entry("one.jpg", 1, ("coat,blue", "plain"))]
    assert read_captions(entries, "published") == entries
    assert read_captions(entries, "plain") == [Entry("one.jpg", 1, ("coat, blue", "plain"))]


# ---- other readings --------------------------------------------------------------------


def moved(text: str, read: str, *parts: str) -> list[str]:
    """What parts of a caption as it is read are in the cleaned caption."""
    starts = [read.index(part) for part in parts]
    spans = spans_when_cleaned(
        text, read, [(start, start + len(part)) for start, part in zip(starts, parts, strict=True)]
    )
    return [clean_caption(text, None)[start:end] for start, end in spans]


def test_parts_of_other_readings_are_found_in_the_cleaned_caption():
    text = "A T-shirt, (light-blue) & the man's bag."
    parts = ["t", "-", "shirt", ",", "light-blue", "man", "'s", "bag", "."]
    assert moved(text, text.lower(), *parts) == ["t", "", "shirt", "", "light blue", "man", "s", "bag", ""]
    assert spans_when_cleaned("A red coat", "a red", [(0, 0), (0, 1), (2, 5), (0, 0)]) == [
        (0, 0),
        (0, 1),
        (2, 5),
        (0, 0),
    ]
    assert spans_when_cleaned("...", "...", [(0, 0), (0, 3)]) == [(0, 0), (0, 0)]


def test_parts_are_found_where_an_entity_was_resolved():
    text, read = "A coat &amp; blue jeans&hellip; she is naïve", "a coat & blue jeans\u2026 she is naïve"
    assert moved(text, read, "coat", "blue", "jeans", "she", "naïve") == ["coat", "blue", "jeans", "she", "naïve"]


def test_pieces_have_the_number_of_their_word():
    #                                  red back pack's comma
    offsets = [(0, 0), (0, 1), (2, 5), (6, 10), (10, 14), (0, 0), (15, 18), (0, 0)]
    assert word_numbers("a red backpack and", offsets) == [0, 1, 2, 3, 3, 0, 4, 0]
