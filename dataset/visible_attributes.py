"""Attributes as people see them: how a garment, a thing or a part of a person looks, in sentences that people wrote.

A parser looks for sentences, and captions often have none: clauses follow each other without commas, and "white shirt
and black trousers" is taken for one phrase. Here parts of speech are enough. Adjectives, participles and nouns that
follow each other are a run ("short sleeved top black sandals"), which ends at everything else; "and" or a comma
between two adjectives does not end it. A run is cut behind a noun that is known to end a phrase where another phrase
begins.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dataset.attribute_words import (
    ACTIONS,
    ASPECTS,
    BODY,
    COLOURS,
    GARMENTS,
    LOOKS,
    MATERIALS,
    MEASURES,
    PARTS,
    PATTERNS,
    PERSONS,
    REGIONS,
    SORTS,
    STYLES,
    USES,
    WHERE,
)

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_ADJECTIVES = COLOURS | PATTERNS | MATERIALS | LOOKS
_ENDS = GARMENTS | PERSONS | BODY
_NOUNS = GARMENTS | PARTS  # whatever the tagger takes them for
_JOINING = frozenset({"and", "&", "or", ","})
_ARE = frozenset({"are", "be", "is", "was", "were", "'s"})
_FASTENED = frozenset({"button", "flip", "lace", "pull", "slip", "snap", "zip", "zipper"})  # a zip up jacket
_FASTENINGS = frozenset({"down", "on", "over", "up"})
_NECKS = frozenset({"boat", "cowl", "crew", "round", "scoop", "turtle", "v", "vee"})  # a v neck shirt

Phrase = list[tuple["Token", bool]]
"""The words of an attribute in their order, each with whether it is an adjective."""


def visible_attributes(doc: "Doc") -> list[Phrase]:
    """The attributes of a tagged caption, in its order; its text is lower-case with punctuation, without hyphens."""
    return [phrase for run in _runs(doc) for part in _cut(run) if (phrase := _phrase(part))]


def _runs(doc: "Doc") -> Iterator[list["Token"]]:
    """Adjectives, participles and nouns that follow each other, without what joins them."""
    run: list[Token] = []
    for token in doc:
        if _is_adjective(token) or _is_noun(token):
            run.append(token)
        elif not (run and _goes_on(run, token)):
            yield run
            run = []
    yield run


def _goes_on(run: Sequence["Token"], token: "Token") -> bool:
    """Whether a run goes on behind a token that is no part of it."""
    last, behind = run[-1], [other for other in token.doc[token.i + 1 : token.i + 3] if other.text not in _JOINING]
    if token.text == '"' or (token.lower_ in _FASTENINGS and last.lower_ in _FASTENED):
        return True
    if token.lower_ in _JOINING and behind:
        is_predicate = run[0].i > 0 and token.doc[run[0].i - 1].lower_ in _ARE  # his shirt is black and white shoes
        return not is_predicate and _is_modifier(last) and _is_modifier(behind[0])
    return token.pos_ == "NUM" and last.lower_ not in _ENDS


def _is_adjective(token: "Token") -> bool:
    word = token.lower_
    if word in _ADJECTIVES or token.pos_ == "ADJ":
        return True
    is_participle = word in USES or (token.pos_ == "VERB" and word.endswith("ed") and word not in ACTIONS)
    return is_participle and token.i + 1 < len(token.doc) and _may_follow(token.doc[token.i + 1])


def _may_follow(token: "Token") -> bool:
    """Whether a participle before a token describes what the token begins."""
    return token.pos_ in ("ADJ", "NOUN", "PROPN") or token.lower_ in _ADJECTIVES or token.lower_ in _ENDS


def _is_noun(token: "Token") -> bool:
    word = token.lower_
    if token.pos_ in ("NOUN", "PROPN") or word in _NOUNS or word in _FASTENED or word == "v":  # a v neck
        return True
    return word in BODY and token.i + 1 < len(token.doc) and token.doc[token.i + 1].lower_ in MEASURES


def _is_modifier(token: "Token") -> bool:
    """Whether a token, whatever follows it, is an adjective."""
    return _is_adjective(token) and token.lower_ not in _ENDS


def _cut(run: Sequence["Token"]) -> Iterator[list["Token"]]:
    """The parts of a run, each with one noun at its end."""
    part: list[Token] = []
    for token in run:
        if part and _is_no_part(part[-1].lower_, token):
            yield part
            part = []
            continue
        if part and _ends_before(part, token):
            yield part
            part = []
        part.append(token)
    yield part


def _is_no_part(last: str, token: "Token") -> bool:
    """Whether a word between a garment and another phrase is unknown: most are misspelt (shirt wiht blue shorts)."""
    known = token.lower_ in _ENDS or token.lower_ in _NOUNS or token.lower_ in STYLES or _is_modifier(token)
    is_before_modifier = token.i + 1 < len(token.doc) and _is_modifier(token.doc[token.i + 1])
    return last in GARMENTS and not known and is_before_modifier


def _ends_before(part: Sequence["Token"], token: "Token") -> bool:
    """Whether a part of a run is whole before a token, which then begins another one."""
    last, word = part[-1].lower_, token.lower_
    if word in ASPECTS or (word in MEASURES and last in BODY):
        return False
    if _is_noun(token) and not _is_modifier(token):
        if last in GARMENTS and word in GARMENTS:
            return last not in SORTS and not _same_region(last, word)
        return last in PERSONS or last in ("body", "bodies") or (last in GARMENTS and word in PERSONS)
    if last in _NECKS or (last == "neck" and len(part) > 1 and part[-2].lower_ in _NECKS):
        return False
    return last in _ENDS or part[-1].tag_ == "NNS"


def _same_region(first: str, second: str) -> bool:
    """Whether two garments that follow each other are one: a tank top, heel shoes; not: jeans shoes."""
    return any(first in region and second in region for region in REGIONS)


def _phrase(part: Sequence["Token"]) -> Phrase:
    """The attribute that a part of a run is; empty when it is none."""
    words = list(part)
    while words and not _is_head(words):
        words.pop()
    if not words:
        return []
    head = words[-1].lower_
    if head not in GARMENTS:
        while len(words) > 1 and words[0].lower_ in WHERE:
            words = words[1:]
    phrase = [(token, token is not words[-1] and _is_adjective(token)) for token in words]
    seen = any(adjective and token.lower_ not in WHERE for token, adjective in phrase)
    return phrase if len(phrase) > 1 and seen else []


def _is_head(words: Sequence["Token"]) -> bool:
    """Whether the last of some words is a noun that the others may describe."""
    last = words[-1]
    if last.lower_ == "short":  # a pair of black short
        return len(words) > 1 and (words[-2].lower_ in COLOURS or words[-2].lower_ in ("cargo", "denim", "jean"))
    if last.lower_ in _NOUNS:
        return True
    return last.pos_ in ("NOUN", "PROPN") and last.lower_ not in COLOURS
