"""Edits of captions whose attributes are known: contradicted, repeated, made vague, dropped.

A caption is edited as the model reads it: cleaned, and cut at `max_words` word pieces. Of its attributes ("red coat")
those are edited that are whole, end in a noun, speak of one thing and not of who the person is ("young man"). All
edits of a caption begin with the same attribute, drawn by the seed and the caption's place, and those that put another
colour there put the same, so that edits can be compared.

Letters: W words of a caption, A attributes of it that can be edited.
"""

import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from dataset.attributes import COLOURS, Attribute
from dataset.captions import clean_caption
from dataset.tokens import CaptionTokenizer

# words for shades of a colour, which go with it when it is replaced
SHADES = frozenset({"bright", "dark", "deep", "faded", "jet", "light", "medium", "navy", "off", "pale", "royal", "sky"})
HALVES = frozenset({"button", "lace", "pull", "zip"})  # nouns that the parser cuts off: a black zip | up jacket
# whom and what captions describe that is not worn or carried
PERSONS = frozenset({
    "adult", "arm", "arms", "boy", "child", "female", "gentleman", "girl", "guy", "hand", "hands", "kid", "lady",
    "male", "man", "pedestrian", "people", "person", "shoulder", "side", "teenager", "woman",
})  # fmt: skip
# colours that may be meant by one another's names
FAMILIES = tuple(
    map(
        frozenset,
        (
            {"black", "charcoal"},
            {"grey", "gray", "silver", "charcoal", "taupe"},
            {"white", "cream", "ivory", "beige"},
            {"blue", "navy", "azure", "indigo", "cyan", "aqua", "turquoise", "teal"},
            {"red", "burgundy", "maroon", "crimson", "scarlet", "ruby", "vermilion", "rust"},
            {"purple", "violet", "lavender", "lilac", "plum", "mauve", "magenta", "fuchsia", "indigo"},
            {"pink", "rose", "salmon", "coral", "peach", "magenta", "fuchsia"},
            {"brown", "tan", "beige", "khaki", "chestnut", "bronze", "taupe", "ochre", "rust"},
            {"yellow", "gold", "golden", "mustard", "blonde", "amber", "ochre"},
            {"green", "olive", "lime", "mint", "emerald", "khaki", "teal", "turquoise"},
            {"orange", "amber", "coral", "peach", "rust", "salmon"},
        ),
    )
)
ARTICLES = ("a", "an")
DETERMINERS = frozenset({*ARTICLES, "the", "his", "her", "their", "some", "two", "one", "another"})
PRONOUNS = frozenset({"he", "she", "they"})
# what leads to an attribute and says nothing without it
LEAD_INS = frozenset({
    *PRONOUNS, "also", "and", "are", "carries", "carrying", "dressed", "had", "has", "have", "having", "holding",
    "holds", "in", "is", "of", "on", "over", "pair", "pulling", "rolling", "under", "wearing", "wears", "with", "wore",
})  # fmt: skip
# what follows one and belongs to it: "on his back", "tied in a ponytail"
FOLLOWERS = re.compile(
    r"^((on|in|over|with|beside|behind|across|around) (her|his|him|their|the|one)( (back|hands?|shoulders?|head|neck"
    r"|feet|chest|front|side|body|waist|face|arms?)\b)?"
    r"|(tied|pulled|cut|worn) (back|up|short|in an? \w+)|underneath)\b ?"
)
VOWEL = re.compile(r"(?!one\b|uni|use|eu)[aeiou]")  # an orange coat, a uniform

Words = list[str]


@dataclass(frozen=True)
class EditableCaption:
    """words [W] as the model reads them; attributes [A]: places of the first word, and behind the last, ascending."""

    words: tuple[str, ...]
    attributes: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def head(self, attribute: int) -> str:
        """The noun of an attribute."""
        return self.words[self.attributes[attribute][1] - 1]


@dataclass(frozen=True)
class Choice:
    """What is drawn for a caption.

    order [A]: attributes in the order in which they lose something, the target first. target: the attribute told with
    another colour, None where there is none: `colour` in place of the words from start to end.
    """

    order: tuple[int, ...]
    target: int | None = None
    start: int = 0
    end: int = 0
    colour: str = ""


# ---- reading ----


def what_is_read(text: str, tokenizer: CaptionTokenizer, max_words: int) -> str:
    """The cleaned caption up to the last whole word of which the model reads all pieces."""
    cleaned = clean_caption(text, max_words)
    end = max(stop for _, stop in tokenizer.encode(cleaned, max_words).offsets)
    if end < len(cleaned) and cleaned[end] != " ":  # within a word
        end = cleaned.rfind(" ", 0, end) + 1
    return cleaned[:end].rstrip()


def fits(text: str, tokenizer: CaptionTokenizer, max_words: int) -> bool:
    """True when a model reads the whole text."""
    return what_is_read(text, tokenizer, max_words) == clean_caption(text, None)


def make_editable(text: str, is_whole: bool, attributes: Sequence[Attribute]) -> EditableCaption:
    """The words of a text as it is read, with the attributes that can be edited (spans of characters in the text).

    is_whole: the text was not cut; else an attribute at its end may have lost its noun.
    """
    words = tuple(text.split())
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    found: list[tuple[int, int]] = []
    behind = 0  # where the last attribute ended
    for spans in attributes:
        if spans[-1][1] > len(text):
            continue
        first = describing_from(words, bisect_right(starts, spans[0][0]) - 1, behind)
        last = bisect_left(starts, spans[-1][1])
        if behind <= first and (is_whole or last < len(words)) and is_editable(words[first:last]):
            found.append((first, last))
        behind = max(behind, last)
    return EditableCaption(words, tuple(found))


def describing_from(words: Sequence[str], first: int, behind: int) -> int:
    """Place of the first word of an attribute, with colours before it that the parser took for something else.

    behind: where the attribute before it ended.
    """
    while first > behind:
        before = words[first - 1]
        two = before == "and" and first - 2 >= behind and words[first - 2] in COLOURS
        if not two and before not in COLOURS and before not in SHADES and not before.endswith("ly"):
            break
        first -= 2 if two else 1
    return first


def is_editable(words: Sequence[str]) -> bool:
    """True for the words of an attribute of a thing: a noun behind something that describes it."""
    of_colour = [word in COLOURS or word in SHADES for word in words]
    if len(words) < 2 or of_colour[-1] or words[-1] in HALVES or PERSONS.intersection((words[0], words[-1])):
        return False
    return len(colour_runs(words, with_and=True)) < 2  # colours in two places are those of two things


def colour_runs(words: Sequence[str], with_and: bool = False) -> list[tuple[int, int]]:
    """Places (first, behind the last) of colours with their shades; `with_and` takes "black and white" for one."""
    runs: list[tuple[int, int]] = []
    for place, word in enumerate(words):
        if word not in COLOURS and word not in SHADES:
            continue
        joins = runs and (runs[-1][1] == place or (with_and and runs[-1][1] == place - 1 and words[place - 1] == "and"))
        runs = [*runs[:-1], (runs[-1][0], place + 1)] if joins else [*runs, (place, place + 1)]
    return [run for run in runs if COLOURS.intersection(words[slice(*run)])]


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


def choose(caption: EditableCaption, person: int, palette: Palette, seed: int, place: int) -> Choice:
    """What the edits of the caption at this place of the split take and put."""
    rng = random.Random(f"{seed} {place}")
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


def agree(words: Words, place: int) -> Words:
    """The words, with `a` or `an` before the word at `place` as that wants it."""
    if 0 < place < len(words) and words[place - 1] in ARTICLES:
        words[place - 1] = "an" if VOWEL.match(words[place]) else "a"
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
    for attribute in sorted(choice.order[:wanted], reverse=True):  # from the end on, so that places stay right
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
        return [*left[:-1], *right]
    if right[:1] == ["and"] and right[1:] and right[1] not in LEAD_INS:  # a red coat and blue jeans
        return [*left, *right[1:]]
    if right[:1] in (["over"], ["under"]):  # a red coat over a white shirt
        return [*left, *right[1:]]
    if beside or right[:1] == ["pair"] or (right and right[0] in DETERMINERS):  # a red coat, blue jeans
        return [*left, *right]
    return without_lead_in(left, right)


def without_lead_in(left: Words, right: Words) -> Words:
    """What stands before and behind a dropped attribute, without the verb or preposition that led to it."""
    same_person = right[:1] == ["and"] and right[1:2] and right[1] not in PRONOUNS  # he has red hair and is walking
    kept = without_end(left, LEAD_INS - PRONOUNS if same_person else LEAD_INS)
    if right[:1] == ["and"] and (not kept or (same_person and "and" not in left[len(kept) :])):
        right = right[1:]
    return [*kept, *right]


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
