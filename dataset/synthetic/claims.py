"""What a caption of the synthetic benchmark claims of a person, and of which people that is true.

A claim is what a phrase says and no more: "shoes" are sneakers or dress shoes, "striped" does not say which way.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dataset.synthetic.captions import MENTIONED
from dataset.synthetic.colours import COLOUR_WORDS, HAIR_WORDS
from dataset.synthetic.words import BUILDS, HAIR_SHAPES, NOUNS, PATTERN_AFTER, PATTERN_BEFORE, PRONOUNS, SUBJECTS

WHO = "person"  # gender and build, which captions tell without a phrase of their own
CLAIMED = (WHO, *MENTIONED)

ANY = -1
SLEEVES = {"long": "long sleeved", "short": "short sleeved", "none": "sleeveless"}
TIED_BACK = {"tied back": "ponytail"}  # what a ponytail is called from the front
KIND_NUMBER = {kind: number for number, kind in enumerate((*PRONOUNS, *NOUNS, *HAIR_SHAPES))}
COLOUR_NUMBER = {name: number for number, name in enumerate((*COLOUR_WORDS, *HAIR_WORDS, *BUILDS))}
PATTERN_NUMBER = {name: number for number, name in enumerate(("plain", *PATTERN_AFTER))}
SLEEVE_NUMBER = {name: number for number, name in enumerate(SLEEVES)}
LOGO = 1 << PATTERN_NUMBER["logo"]


class Claim(NamedTuple):
    """What a phrase says. kinds, patterns: bits of those that it can mean, 0 = all; else numbers, `ANY` = not said."""

    kinds: int = 0
    colour: int = ANY
    second: int = ANY
    patterns: int = 0
    sleeves: int = ANY
    opened: int = ANY


class Fact(NamedTuple):
    """How a thing is. from_front: whether it is seen from there, where a logo shows, and whether it is open."""

    kind: int
    colour: int
    second: int = ANY
    pattern: int = 0
    sleeves: int = ANY
    opened: int = ANY
    from_front: int = 1


def words_of(groups: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Word or phrase -> the names that it can stand for."""
    found: dict[str, set[str]] = {}
    for name, words in groups.items():
        for word in words:
            found.setdefault(word, set()).add(name)
    return found


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Finds whole words or phrases of several; of two that begin alike, the longer one."""
    return re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(words, key=len, reverse=True))) + r")\b")


def bits(names: Iterable[str], numbers: Mapping[str, int]) -> int:
    """A bit for each name."""
    return sum(1 << numbers[name] for name in names)


COLOUR_OF = words_of({name: {word for group in groups for word in group} for name, groups in COLOUR_WORDS.items()})
HAIR_COLOUR_OF = words_of(HAIR_WORDS)
KINDS_OF = words_of({kind: nouns for kind, (nouns, _) in NOUNS.items()})
PATTERNS_OF = words_of(
    {
        name: {*PATTERN_BEFORE.get(name, ()), *(text.rpartition("{} ")[2] for text in texts)}
        for name, texts in PATTERN_AFTER.items()
    }
)
GENDER_OF = words_of({gender: {*SUBJECTS[gender], *PRONOUNS[gender]} for gender in PRONOUNS})
BUILD_OF = words_of({build: {f"{word} build" for word in words} for build, words in BUILDS.items()})
COLOURS, HAIR_COLOURS, KINDS, PATTERNS, GENDERS, BUILD = map(
    any_of, (COLOUR_OF, HAIR_COLOUR_OF, KINDS_OF, PATTERNS_OF, GENDER_OF, BUILD_OF)
)
HAIR = [
    (TIED_BACK.get(style, style), re.compile(re.escape(text).replace(r"\{\}", "(?:.+)")))
    for style, texts in HAIR_SHAPES.items()
    for text in texts
]


def claim_of(attribute: str, phrase: str) -> Claim:
    """What a phrase of a caption says of an attribute."""
    phrase = phrase.lower()
    if attribute == "hair":
        return claim_of_hair(phrase)
    kinds = KINDS.search(phrase)
    colours = [name for word in COLOURS.findall(phrase) for name in COLOUR_OF[word]]
    patterns = PATTERNS.search(phrase)
    return Claim(
        kinds=bits(KINDS_OF[kinds[0]], KIND_NUMBER) if kinds else 0,
        colour=COLOUR_NUMBER[colours[0]] if colours else ANY,
        second=COLOUR_NUMBER[colours[1]] if len(colours) > 1 else ANY,
        patterns=bits(PATTERNS_OF[patterns[0]], PATTERN_NUMBER) if patterns else 0,
        sleeves=next((SLEEVE_NUMBER[name] for name, words in SLEEVES.items() if words in phrase), ANY),
        opened=1 if re.search(r"\bopen\b", phrase) else ANY,
    )


def claim_of_hair(phrase: str) -> Claim:
    """What a phrase says of hair: its style, and its colour but for a bald head."""
    styles = {style for style, form in HAIR if form.fullmatch(phrase.removeprefix("an ").removeprefix("a "))}
    styles |= {style for style, form in HAIR if form.fullmatch(phrase)}
    colours = HAIR_COLOURS.search(phrase)
    colour = ANY if colours is None else COLOUR_NUMBER[min(HAIR_COLOUR_OF[colours[0]])]
    return Claim(kinds=bits(styles, KIND_NUMBER), colour=colour)


def claim_of_who(text: str) -> Claim:
    """What a whole caption says of gender and build."""
    text = text.lower()
    genders = {name for word in GENDERS.findall(text) for name in GENDER_OF[word]}
    builds = {name for word in BUILD.findall(text) for name in BUILD_OF[word]}
    return Claim(bits(genders, KIND_NUMBER), COLOUR_NUMBER[min(builds)] if builds else ANY)


def fact_of(attribute: str, person: Mapping[str, Any], from_front: bool) -> Fact | None:
    """How a person of attributes.json is or what they wear; None = nothing of the sort."""
    if attribute == WHO:
        return Fact(KIND_NUMBER[person["gender"]], COLOUR_NUMBER[person["build"]])
    thing = person.get(attribute)
    if thing is None:
        return None
    worn = attribute in ("upper", "dress")
    return Fact(
        kind=KIND_NUMBER[thing["kind"]],
        colour=COLOUR_NUMBER[thing["colour"]],
        second=COLOUR_NUMBER[thing["second_colour"]] if "second_colour" in thing else ANY,
        pattern=PATTERN_NUMBER[thing["pattern"]],
        sleeves=SLEEVE_NUMBER[person["sleeves"]] if worn else ANY,
        opened=int(person["upper_open"]) if worn else ANY,
        from_front=int(from_front),
    )


def true_of(claims: Sequence[Claim], facts: Sequence[Fact]) -> np.ndarray:
    """Which claims [K] are true of which facts [T]: bool [K, T]. What cannot be seen may be true."""
    kinds, colour, second, patterns, sleeves, opened = np.array(claims, np.int64).reshape(-1, 6, 1).transpose(1, 0, 2)
    kind, colours, seconds, pattern, sleeve, open_, front = np.array(facts, np.int64).reshape(-1, 7).T
    hidden = (patterns == LOGO) & (front == 0)
    true = (kinds == 0) | ((kinds >> kind) & 1 == 1)
    true &= (colour == ANY) | (colour == colours)
    true &= (patterns == 0) | ((patterns >> pattern) & 1 == 1) | hidden
    true &= (second == ANY) | (second == seconds) | hidden
    true &= (sleeves == ANY) | (sleeves == sleeve)
    return true & ((opened == ANY) | (opened == open_) | (front == 0))
