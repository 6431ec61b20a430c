"""Captions as words, with those attributes ("red coat") that can be edited.

A caption is edited as the model reads it: cleaned, and cut at `max_words` word pieces. Of its attributes those can be
edited that are whole, end in a noun, speak of one thing and not of who the person is ("young man").

Letters: W words of a caption, A attributes of it that can be edited.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from dataset.attribute_words import COLOURS
from dataset.attributes import Attribute
from dataset.captions import clean_caption
from dataset.tokens import TextTokenizer


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# words for shades of a colour, which go with it when it is replaced
SHADES = words_of("bright dark deep faded jet light medium navy off pale royal sky")
HALVES = words_of("button lace pull zip")  # nouns that the parser cuts off: a black zip | up jacket
# whom and what captions describe that is not worn or carried
PERSONS = words_of(
    "adult arm arms boy child female gentleman girl guy hand hands kid lady male man pedestrian people person shoulder"
    " side teenager woman"
)


@dataclass(frozen=True)
class EditableCaption:
    """words [W] as the model reads them; attributes [A]: index of the first word, and behind the last, ascending."""

    words: tuple[str, ...]
    attributes: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def head(self, attribute: int) -> str:
        """The noun of an attribute."""
        return self.words[self.attributes[attribute][1] - 1]


def what_is_read(text: str, tokenizer: TextTokenizer, max_words: int) -> str:
    """The cleaned caption up to the last whole word of which the model reads all pieces."""
    cleaned = clean_caption(text, max_words)
    end = max(stop for _, stop in tokenizer.encode(cleaned, max_words).offsets)
    if end < len(cleaned) and cleaned[end] != " ":  # within a word
        end = cleaned.rfind(" ", 0, end) + 1
    return cleaned[:end].rstrip()


def fits(text: str, tokenizer: TextTokenizer, max_words: int) -> bool:
    """True when a model reads the whole text."""
    return what_is_read(text, tokenizer, max_words) == clean_caption(text, None)


def make_editable(text: str, is_whole: bool, attributes: Sequence[Attribute]) -> EditableCaption:
    """The words of a text as it is read, with the attributes that can be edited (spans of characters in the text).

    is_whole: the text was not cut; else an attribute at its end may have lost its noun.
    """
    words = tuple(text.split())
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    found: list[tuple[int, int]] = []
    end = 0  # of the attribute before
    for spans in attributes:
        if spans[-1][1] > len(text):
            continue
        first = extend_to_left(words, bisect_right(starts, spans[0][0]) - 1, end)
        last = bisect_left(starts, spans[-1][1])
        has_noun = is_whole or last < len(words)
        if first >= end and has_noun and is_editable(words[first:last]):
            found.append((first, last))
        end = max(end, last)
    return EditableCaption(words, tuple(found))


def extend_to_left(words: Sequence[str], first: int, end: int) -> int:
    """Index of the first word of an attribute, with colours before it that the parser took for something else.

    end: of the attribute before it.
    """
    while first > end:
        before = words[first - 1]
        if is_colour_word(before) or before.endswith("ly"):
            first -= 1
        elif before == "and" and first - 2 >= end and words[first - 2] in COLOURS:
            first -= 2
        else:
            break
    return first


def is_colour_word(word: str) -> bool:
    """True for a colour or a shade of one."""
    return word in COLOURS or word in SHADES


def is_editable(words: Sequence[str]) -> bool:
    """True for the words of an attribute of a thing: a noun behind something that describes it."""
    if (
        len(words) < 2
        or is_colour_word(words[-1])
        or words[-1] in HALVES
        or PERSONS.intersection((words[0], words[-1]))
    ):
        return False
    return len(colour_runs(words, with_and=True)) < 2  # two runs of colours are those of two things


def colour_runs(words: Sequence[str], with_and: bool = False) -> list[tuple[int, int]]:
    """(first, behind the last) index of colours with their shades; `with_and` takes "black and white" for one."""
    runs: list[tuple[int, int]] = []
    for index, word in enumerate(words):
        if not is_colour_word(word):
            continue
        between = list(words[runs[-1][1] : index]) if runs else None
        if between == [] or (with_and and between == ["and"]):
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return [(first, last) for first, last in runs if COLOURS.intersection(words[first:last])]
