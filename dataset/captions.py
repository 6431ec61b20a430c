"""The cleaning every caption goes through before it is cut into word pieces."""

import re

CAPTION_RULES = "1"
"""Version of the rules below; what is cached about cleaned captions is stale when it changes."""

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
