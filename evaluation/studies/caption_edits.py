"""Edits of captions whose attributes are known: contradicted, repeated, made vague, dropped.

All edits of a caption begin with the same attribute, drawn by the seed and the caption's index, and those that put
another colour there put the same, so that edits can be compared.

Letters: A attributes of a caption that can be edited.
"""

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from dataset.attribute_words import COLOURS
from evaluation.studies.editable_captions import EditableCaption, colour_runs, words_of

FAMILIES = [  # colours that may be meant by one another's names
    words_of(names)
    for names in (
        "black charcoal",
        "grey gray silver charcoal taupe",
        "white cream ivory beige",
        "blue navy azure indigo cyan aqua turquoise teal",
        "red burgundy maroon crimson scarlet ruby vermilion rust",
        "purple violet lavender lilac plum mauve magenta fuchsia indigo",
        "pink rose salmon coral peach magenta fuchsia",
        "brown tan beige khaki chestnut bronze taupe ochre rust",
        "yellow gold golden mustard blonde amber ochre",
        "green olive lime mint emerald khaki teal turquoise",
        "orange amber coral peach rust salmon",
    )
]
ARTICLES = ("a", "an")
DETERMINERS = words_of("a an the his her their some two one another")
PRONOUNS = words_of("he she they")
# what leads to an attribute and says nothing without it
LEAD_INS = PRONOUNS | words_of(
    "also and are carries carrying dressed had has have having holding holds in is of on over pair pulling rolling"
    " under wearing wears with wore"
)
# what follows one and belongs to it: "on his back", "tied in a ponytail"
FOLLOWERS = re.compile(
    r"^((on|in|over|with|beside|behind|across|around) (her|his|him|their|the|one)( (back|hands?|shoulders?|head|neck"
    r"|feet|chest|front|side|body|waist|face|arms?)\b)?"
    r"|(tied|pulled|cut|worn) (back|up|short|in an? \w+)|underneath)\b ?"
)
VOWEL = re.compile(r"(?!one\b|uni|use|eu)[aeiou]")  # an orange coat, a uniform

Words = list[str]


@dataclass(frozen=True)
class Choice:
    """What is drawn for a caption.

    order [A]: attributes in the order in which they lose something, the target first. target: the attribute that
    gets another colour, None where there is none: `colour` in place of the words from start to end.
    """

    order: tuple[int, ...]
    target: int | None = None
    start: int = 0
    end: int = 0
    colour: str = ""


# ---- choosing ----


def relatives(colour: str) -> frozenset[str]:
    """All colours that may be meant by this one's name."""
    return frozenset({colour}).union(*(family for family in FAMILIES if colour in family))


class Palette:
    """Which colours things have in the captions of a split, and what is known of each person's."""

    def __init__(self, captions: Iterable[tuple[EditableCaption, int]]):
        """captions: with the number of the person."""
        self.of_noun: dict[str, list[str]] = {}
        self.of_person: dict[tuple[int, str], set[str]] = {}
        for caption, person in captions:
            for attribute, (first, last) in enumerate(caption.attributes):
                noun, colours = caption.head(attribute), COLOURS.intersection(caption.words[first:last])
                self.of_noun.setdefault(noun, []).extend(sorted(colours))
                self.of_person.setdefault((person, noun), set()).update(colours)
        self.every = [colour for colours in self.of_noun.values() for colour in colours]

    def wrong_colour(self, caption: EditableCaption, noun: str, person: int, rng: random.Random) -> str:
        """A colour, as frequent as it is for such things, that the caption does not mention and the thing has not.

        Colours that any caption of the person gives such a thing, and relatives of all these, count as its own. ""
        when there is none.
        """
        own = COLOURS.intersection(caption.words) | self.of_person.get((person, noun), set())
        known = frozenset().union(*map(relatives, own))
        for colours in (self.of_noun.get(noun, []), self.every):
            other = [colour for colour in colours if colour not in known]
            if other:
                return rng.choice(other)
        return ""


def choose(caption: EditableCaption, person: int, palette: Palette, seed: int, index: int) -> Choice:
    """What the edits of the caption with this index in the split replace, and by what."""
    rng = random.Random(f"{seed} {index}")
    order = list(range(len(caption.attributes)))
    rng.shuffle(order)
    for attribute in order:
        first, last = caption.attributes[attribute]
        runs = colour_runs(caption.words[first : last - 1])
        colour = palette.wrong_colour(caption, caption.head(attribute), person, rng) if runs else ""
        if colour:
            start, end = rng.choice(runs)
            others = [other for other in order if other != attribute]
            return Choice((attribute, *others), attribute, first + start, first + end, colour)
    return Choice(tuple(order))


# ---- editing ----


def agree(words: Words, index: int) -> Words:
    """The words, with `a` or `an` before the word at `index` as that wants it."""
    if 0 < index < len(words) and words[index - 1] in ARTICLES:
        words[index - 1] = "an" if VOWEL.match(words[index]) else "a"
    return words


def wrong(caption: EditableCaption, choice: Choice) -> Words | None:
    """a red coat -> a blue coat"""
    if choice.target is None:
        return None
    return agree([*caption.words[: choice.start], choice.colour, *caption.words[choice.end :]], choice.start)


def said_again(caption: EditableCaption, choice: Choice, colours: Sequence[str]) -> Words | None:
    """The target once more behind itself, from its colours on, with these; with an article where it has one."""
    if choice.target is None:
        return None
    first, last = caption.attributes[choice.target]
    words = caption.words
    article = ["a"] if first and words[first - 1] in ARTICLES else []
    before = [*words[:last], "and", *article]
    return agree([*before, *colours, *words[choice.end :]], len(before))


def contradicted(caption: EditableCaption, choice: Choice) -> Words | None:
    """a red coat -> a red coat and a blue coat"""
    return said_again(caption, choice, [choice.colour])


def repeated(caption: EditableCaption, choice: Choice) -> Words | None:
    """a red coat -> a red coat and a red coat"""
    return said_again(caption, choice, caption.words[choice.start : choice.end])


def vague(caption: EditableCaption, choice: Choice, count: Callable[[int], int]) -> Words | None:
    """a red coat -> a coat, for `count` of the attributes [A]"""
    wanted = count(len(choice.order))
    if not 1 <= wanted <= len(choice.order):
        return None
    words = list(caption.words)
    for attribute in sorted(choice.order[:wanted], reverse=True):  # from the end on, so that indices stay right
        first, last = caption.attributes[attribute]
        del words[first : last - 1]
        agree(words, first)
    return words


def dropped(caption: EditableCaption, choice: Choice, count: Callable[[int], int]) -> Words | None:
    """a red coat and blue jeans -> blue jeans, for `count` of the attributes [A]; one at least stays"""
    wanted = count(len(choice.order))
    if not 1 <= wanted < len(choice.order):
        return None
    words = list(caption.words)
    starts = {first for first, _ in caption.attributes}
    for attribute in sorted(choice.order[:wanted], reverse=True):
        first, last = caption.attributes[attribute]
        words = joined(words[:first], words[last:], last in starts)
    return words


def joined(left: Words, right: Words, beside: bool) -> Words:
    """What stands before and behind a dropped attribute, without what is nothing without it.

    beside: another attribute follows at once.
    """
    right = FOLLOWERS.sub("", " ".join(right)).split()
    left = without_end(left, DETERMINERS)
    if left[-2:] == ["pair", "of"]:
        left = without_end(left[:-2], DETERMINERS)
    if left[-1:] == ["and"]:  # blue jeans and a red coat
        return left[:-1] + right
    follows, then = (*right[:2], "", "")[:2]
    # a red coat over a white shirt; a red coat and blue jeans
    if follows in ("over", "under") or (follows == "and" and then and then not in LEAD_INS):
        return left + right[1:]
    if beside or follows == "pair" or follows in DETERMINERS:  # a red coat, blue jeans
        return left + right
    return without_lead_in(left, right)


def without_lead_in(left: Words, right: Words) -> Words:
    """What stands before and behind a dropped attribute, without the verb or preposition that led to it."""
    if right[:1] != ["and"]:
        return without_end(left, LEAD_INS) + right
    same_person = len(right) > 1 and right[1] not in PRONOUNS  # he has red hair and is walking
    kept = without_end(left, LEAD_INS - PRONOUNS if same_person else LEAD_INS)
    joins_nothing = not kept or (same_person and "and" not in left[len(kept) :])
    return kept + (right[1:] if joins_nothing else right)


def without_end(words: Words, ends: frozenset[str]) -> Words:
    """The words up to the last one that is not of `ends`."""
    kept = len(words)
    while kept and words[kept - 1] in ends:
        kept -= 1
    return words[:kept]


EDITS: dict[str, Callable[[EditableCaption, Choice], Words | None]] = {
    "wrong": wrong,
    "contradicted": contradicted,
    "repeated": repeated,
    "vague-1": partial(vague, count=lambda attributes: 1),
    "vague-2": partial(vague, count=lambda attributes: 2),
    "vague-all": partial(vague, count=lambda attributes: attributes),
    "dropped-1": partial(dropped, count=lambda attributes: 1),
    "dropped-half": partial(dropped, count=lambda attributes: attributes // 2),
    "dropped-rest": partial(dropped, count=lambda attributes: attributes - 1),
}
