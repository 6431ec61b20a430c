"""Captions of the synthetic benchmark."""

import random
from itertools import pairwise

import pytest

from dataset.synthetic.captions import (
    MAX_WORDS,
    MENTIONED,
    MIN_WORDS,
    Writer,
    polish,
    quirks,
    tokens,
    unmark,
    write_captions,
)
from dataset.synthetic.colours import COLOUR_WORDS, HAIR_COLOURS, HAIR_WORDS, PALETTE
from dataset.synthetic.person import NUMBER, PATTERNS, Person, Thing, sample_person
from dataset.synthetic.words import NOUNS, PATTERN_AFTER, PATTERN_BEFORE


def man(**more) -> Person:
    """A man in a red coat and blue jeans."""
    clothes = {
        "skin": Thing("fair", "fair", (240, 200, 180)),
        "hair": Thing("short", "black", (20, 20, 20)),
        "shoes": Thing("boots", "brown", (120, 70, 40)),
        "upper": Thing("coat", "red", PALETTE["red"]),
        "lower": Thing("jeans", "blue", PALETTE["blue"]),
    }
    return Person("man", "average", 1.0, **(clothes | more))


def everything(person: Person) -> set[str]:
    """All of the person's mentionable parts."""
    return {name for name in MENTIONED if person.thing(name)}


def captions_of_many(count: int = 300) -> list[dict]:
    """Two captions of each of `count` people seen from all sides."""
    found = []
    for k in range(count):
        rng = random.Random(k)
        person = sample_person(rng)
        view = rng.choice(("front", "back", "side"))
        found += write_captions(person, everything(person), view, rng.random() < 0.5, 2, rng)
    return found


def test_unmark_takes_marks_out_and_keeps_the_places():
    plain, mentions = unmark("A man in <5|a red coat> and <7|blue jeans>.")
    assert plain == "A man in a red coat and blue jeans."
    assert mentions == [
        {"attribute": 5, "start": 9, "end": 19},
        {"attribute": 7, "start": 24, "end": 34},
    ]


def test_polish_reaches_into_a_mark():
    assert polish("<5|a orange coat> is worn. he walks.") == "<5|An orange coat> is worn. He walks."


def test_spans_survive_typing_quirks():
    for seed in range(200):
        plain, mentions = unmark(quirks("A man. He has, maybe, <5|a Red coat>.", random.Random(seed)))
        assert plain[mentions[0]["start"] : mentions[0]["end"]].lower() == "a red coat"


def test_captions_have_fifteen_to_forty_five_words():
    lengths = [len(caption["text"].split()) for caption in captions_of_many()]
    assert min(lengths) >= MIN_WORDS
    assert max(lengths) <= MAX_WORDS


def test_few_captions_are_vague_and_the_others_name_clothes():
    found = captions_of_many()
    vague = [caption for caption in found if not caption["mentions"]]
    assert 0.03 < len(vague) / len(found) < 0.12
    clothes = {NUMBER["upper"], NUMBER["lower"], NUMBER["dress"]}
    useful = [caption for caption in found if caption["mentions"]]
    assert all(clothes & {m["attribute"] for m in caption["mentions"]} for caption in useful)


def test_only_visible_parts_are_mentioned():
    person = man(glasses=Thing("glasses", "black", (0, 0, 0)))
    for seed in range(100):
        for caption in write_captions(person, {"upper", "lower"}, "back", True, 2, random.Random(seed)):
            assert {m["attribute"] for m in caption["mentions"]} <= {NUMBER["upper"], NUMBER["lower"]}
            assert "glasses" not in caption["text"]


def test_a_person_of_whom_nothing_is_seen_gets_a_vague_caption():
    captions = write_captions(man(), set(), "front", True, 2, random.Random(0))
    assert len(captions) == 2
    assert all(not caption["mentions"] for caption in captions)


def test_phrases_name_colour_and_garment():
    for seed in range(100):
        writer = Writer(man(), everything(man()), "front", True, random.Random(seed))
        phrase = writer.phrase("upper")
        assert any(word in phrase for group in COLOUR_WORDS["red"] for word in group)
        assert "coat" in phrase


@pytest.mark.parametrize(("view", "named"), [("front", True), ("back", False)])
def test_a_logo_is_only_named_from_the_front(view, named):
    shirt = Thing("t-shirt", "black", PALETTE["black"], "logo", "yellow", PALETTE["yellow"])
    person = man(upper=shirt, sleeves="short")
    phrase = Writer(person, {"upper"}, view, True, random.Random(1)).phrase("upper")
    assert ("yellow" in phrase) is named


def test_captions_of_one_picture_differ():
    person = man()
    captions = write_captions(person, everything(person), "side", True, 10, random.Random(2))
    assert len({caption["text"] for caption in captions}) == 10


def test_every_sampled_kind_colour_and_pattern_has_words():
    for k in range(500):
        person = sample_person(random.Random(k))
        for name in everything(person) - {"hair"}:
            assert person.thing(name).kind in NOUNS
    assert COLOUR_WORDS.keys() == PALETTE.keys()
    assert HAIR_WORDS.keys() == HAIR_COLOURS.keys()
    assert PATTERN_BEFORE.keys() == set(PATTERNS)
    assert PATTERN_AFTER.keys() == {*PATTERNS, "logo"}


def test_articles_fit_the_next_word():
    for caption in captions_of_many():
        words = caption["text"].lower().replace(",", "").split()
        for article, word in pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou"), caption["text"]


def test_tokens_are_lower_case_words():
    assert tokens("A red T-shirt, and blue jeans.") == ["a", "red", "t", "shirt", "and", "blue", "jeans"]
