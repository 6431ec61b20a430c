"""What a sentence says of a person already, by the words that it holds: nobody is asked that again.

A thing is named by its phrases and nouns; what is said of a thing stands before its noun ("a red and white shirt"), or
behind it until the next thing ("hair tied in a bun"). No more of grammar is needed to leave a question out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from evaluation.description.phrases import Category, PhraseTable, nouns_of

WORD = re.compile(r"[\w'-]+|[.;!?]")
STOPS = set(".;!?")


Span = tuple[int, int]  # of words, from and to


def mentioned_categories(table: PhraseTable, sentence: str) -> set[str]:
    """The categories that a sentence says something of."""
    words = WORD.findall(sentence.lower())
    named = {category.described_item or name for name, category in table.items()}
    things = drop_nested_spans({name: find_phrases(words, nouns_of(table[name])) for name in named})
    nouns = {index for ends in things.values() for start, end in ends for index in range(start, end)}
    found = {name for name, category in table.items() if not category.described_item and things[name]}
    for name, category in table.items():
        if category.described_item:
            spans = descriptor_spans(words, things[category.described_item], nouns)
            if any(mentions_option(words[span], category) for span in spans):
                found.add(name)
    return found


def drop_nested_spans(things: Mapping[str, Sequence[Span]]) -> dict[str, list[Span]]:
    """Without what is a part of something longer: dress shoes are no dress."""
    everything = [span for spans in things.values() for span in spans]
    return {
        name: [one for one in spans if not any(a <= one[0] and one[1] <= b and (a, b) != one for a, b in everything)]
        for name, spans in things.items()
    }


def find_phrases(words: Sequence[str], phrases: Iterable[str]) -> list[Span]:
    """Where phrases stand among words, from and to; a plural is the same thing."""
    found = []
    for phrase in dict.fromkeys(phrases):
        parts = WORD.findall(phrase.lower())
        for start in range(len(words) - len(parts) + 1):
            if all(same_or_plural(word, part) for word, part in zip(words[start:], parts, strict=False)):
                found.append((start, start + len(parts)))
    return found


def same_or_plural(word: str, other: str) -> bool:
    """Whether two words are one, or its plural."""
    return word == other or word in (f"{other}s", f"{other}es")


def descriptor_spans(words: Sequence[str], ends: Sequence[Span], nouns: set[int]) -> list[slice]:
    """For each thing, the words from the thing before it to the one behind it, or to the end of the sentence."""
    found = []
    for start, end in ends:
        first = start
        while first > 0 and first - 1 not in nouns and words[first - 1] not in STOPS:
            first -= 1
        last = end
        while last < len(words) and last not in nouns and words[last] not in STOPS:
            last += 1
        found.append(slice(first, end) if last < len(words) and last in nouns else slice(first, last))
    return found


def mentions_option(words: Sequence[str], category: Category) -> bool:
    """Whether a run of words names an option of a category."""
    return bool(find_phrases(words, [*category.questions, *category.mention_words]))
