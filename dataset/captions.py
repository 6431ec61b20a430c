"""The cleaning every caption goes through before it is cut into word pieces, and the reading of what people type."""

import functools
import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

CAPTION_RULES = "1"
"""Version of the rules below; what is cached about cleaned captions is stale when it changes."""

CaptionReading = Literal["published", "plain"]

_PUNCTUATION = ",.'!?\"()*#:;~"
_HALF_CHARACTERS = "\ud800-\udfff"  # lone surrogates, from a broken \u escape in JSON: no UTF-8 form
_DELETED = re.compile(f"[{re.escape(_PUNCTUATION)}{_HALF_CHARACTERS}]")
_DELETED_WITHOUT_PUNCTUATION = re.compile(f"[{_HALF_CHARACTERS}]")
_SPACED = re.compile(r"[-/\s]")
_PERSON = re.compile("<(?=person>)|(?<=<person)>")


def clean_caption(text: str, max_words: int | None) -> str:
    """Lower-case `text`, drop its punctuation and keep the first `max_words` words (None = all).

    The published rules: delete , . ' ! ? " ( ) * # : ; ~; '-' and '/' become spaces; `<person>`
    becomes person; white space collapses to single spaces, none at the ends.
    """
    text = _DELETED.sub("", text.lower()).replace("-", " ").replace("/", " ")
    words = text.replace("<person>", "person").split()
    return " ".join(words[:max_words])


def clean_caption_with_offsets(
    text: str, max_words: int | None, keep_punctuation: bool = False
) -> tuple[str, list[int]]:
    """`clean_caption`, and for each character of its result the index it came from in `text`.

    With `keep_punctuation` nothing but half characters is deleted: a text that a parser can still
    read, aligned to the original in the same way. The indices never decrease (a letter
    whose lower-case form has two characters gives both the same index).
    """
    lowered = text.lower()  # as a whole: the form of a final sigma depends on its neighbours
    origins = [index for index, letter in enumerate(text) for _ in letter.lower()]
    deleted = _DELETED_WITHOUT_PUNCTUATION if keep_punctuation else _DELETED
    cleaned, origins = _delete(_SPACED.sub(" ", lowered), origins, deleted)
    cleaned, origins = _delete(cleaned, origins, _PERSON)
    words = list(re.finditer("[^ ]+", cleaned))[:max_words]
    end = words[-1].end() if words else 0
    # every word with the one space behind it, except behind the last
    kept = [index for word in words for index in range(word.start(), min(word.end() + 1, end))]
    return "".join(cleaned[index] for index in kept), [origins[index] for index in kept]


def _delete(text: str, origins: list[int], pattern: re.Pattern) -> tuple[str, list[int]]:
    """Remove every match of `pattern` from `text`, and its entries from `origins`."""
    removed = {index for match in pattern.finditer(text) for index in range(*match.span())}
    kept = [index for index in range(len(text)) if index not in removed]
    return "".join(text[index] for index in kept), [origins[index] for index in kept]


def spans_when_cleaned(text: str, read: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Characters [start, end) of a caption as some tokenizer reads it, as those of `clean_caption` of what was written.

    Attributes are marked in the latter. (0, 0) for what cleaning leaves nothing of, such as a comma that CLIP reads.
    """
    cleaned = clean_caption(text, None)
    if cleaned.startswith(read):
        return list(spans)
    again, origins = clean_caption_with_offsets(read, None)
    # where both differ, as an entity of HTML does, what they have in common is aligned
    blocks = SequenceMatcher(None, again, cleaned, autojunk=False).get_matching_blocks() if again != cleaned else []
    aligned = {first + step: second + step for first, second, size in blocks for step in range(size)}
    indices: dict[int, list[int]] = {}  # by character as read
    for index, origin in enumerate(origins):
        if again[index] != " " and (again == cleaned or index in aligned):
            indices.setdefault(origin, []).append(aligned.get(index, index))
    found = [[index for at in range(start, end) for index in indices.get(at, ())] for start, end in spans]
    return [(min(own), max(own) + 1) if own else (0, 0) for own in found]


def word_numbers(cleaned: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The number of the word of a cleaned caption that each piece belongs to, from 1 on; 0 = none, of (0, 0)."""
    return [cleaned.count(" ", 0, start) + 1 if start < end else 0 for start, end in offsets]


# ---- what people type ----

# Quotes within words, as keyboards and word processors write them; NFKC would make accents of some.
_APOSTROPHES = frozenset("`\u00b4\u02b9\u02bb\u02bc\u02bd\u02c8\u02ca\u02cb\u2018\u2019\u201a\u201b\u2032\u2035\uff07")
_FULL_STOPS = frozenset("\u06d4\u0964\u0965\u3002\uff61")
_DASHES = frozenset("\u2043\u2212\u2796")  # beside those that Unicode calls dashes
_SPACES = frozenset("|\\_^=+[]{}\u200b\u2044\u2800")  # a space of no width (U+200B) stands between words
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")  # letters and marks that nothing is drawn for
_ABBREVIATION = re.compile(r"(?<![^\W_])(?:[^\W\d_]\.)+[^\W\d_](?![^\W_])\.?")
_SIGNS = r"'*[,.!?\"()*#:;~][,.!?\"()*#:;~']*"  # an apostrophe alone is part of a word
_SYMBOL = re.compile(r"[^\x00-\x7f\w\s]")  # and other signs
_GLUED = re.compile(rf"(?<=(\S)){_SIGNS}(?=(\S))")


def plain_text(text: str) -> str:
    """What people type, in the characters that captions are written in; to be cleaned as every caption.

    Quotes, dashes and other punctuation of typography and of other scripts become those of ASCII; full width letters,
    ligatures and letters beside their accents become plain letters (NFKC); what cannot be seen is dropped.
    Punctuation between two letters, which cleaning would delete, gets a space ("coat,blue", "shirt.he"), numbers
    ("1.75") and abbreviations ("e.g.") aside; so do pictures and symbols, which would become part of a word.
    A zero-width space becomes a space: it marks the end of a word. A plain text stays as it is.
    """
    text = _SYMBOL.sub(_apart_if_long, "".join(map(_plain_character, text)))
    text = "".join(map(_plain_character, unicodedata.normalize("NFKC", text)))
    text = _SYMBOL.sub(_apart, text)
    text = _ABBREVIATION.sub(lambda match: match[0].replace(".", ""), text)
    return _GLUED.sub(lambda match: match[0] + " " if _are_words(match[1], match[2]) else match[0], text)


def _apart(match: re.Match) -> str:
    """A symbol or picture with a space on each side where there is none; what else it is stays as it is."""
    if not unicodedata.category(match[0]).startswith("S"):
        return match[0]
    before, after = match.string[max(0, match.start() - 1) : match.start()], match.string[match.end() : match.end() + 1]
    return f"{' ' * bool(before.strip())}{match[0]}{' ' * bool(after.strip())}"


def _apart_if_long(match: re.Match) -> str:
    """The same for a sign that stands for several letters, such as the trade mark; not for a letter in a circle."""
    return _apart(match) if len(unicodedata.normalize("NFKC", match[0])) > 1 else match[0]


def _are_words(before: str, after: str) -> bool:
    """Whether words, or one and a number, end and begin with these characters; `>` ends a <person>.

    A mark belongs to the letter before it, such as a vowel of Hindi or Thai, or an accent.
    """
    kinds = unicodedata.category(before)[0], unicodedata.category(after)[0]
    if before == ">":
        return kinds[1] in "LMN"
    return kinds != ("N", "N") and all(kind in "LMN" for kind in kinds)


@functools.lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in _APOSTROPHES:
        return "'"
    if character in _SPACES:
        return " "
    if character in _DASHES or category == "Pd":
        return "-"
    if category == "Cc" and not character.isspace():
        return ""
    if character in _FILLERS or category == "Cf" or unicodedata.name(character, "").startswith("VARIATION SELECTOR"):
        return ""
    if character in _FULL_STOPS:
        return "."
    if character.isascii() or not category.startswith("P") or character == "\u2026":
        return character
    return '"' if category in ("Pi", "Pf") else ","
