"""Captions as models of open_clip read them that have a tokenizer of transformers, as SigLIP's has.

Its files lie beside the weights. How captions are cleaned before is written in open_clip's description of the model.

B captions, T ids of a row.
"""

import html
import json
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from dataset.tokens import Encoded, pieces_of_all, unknown_spans, words_before
from dataset.word_noise import NO_LABEL, WordIds
from utils.errors import UserError

TYPE = "open-clip"
MASKS = ("<mask>", "[MASK]")  # tokens that stand for a hidden word, where none is named as such
WITHOUT_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def clean_whitespace(text: str) -> str:
    """Repair what was decoded wrongly, resolve HTML entities, join white space to single spaces."""
    import ftfy  # of the group clip

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def clean_lower(text: str) -> str:
    """The same in lower case."""
    return clean_whitespace(text).lower()


def clean_canonical(text: str) -> str:
    """The same in lower case and without punctuation, as SigLIP reads."""
    return " ".join(clean_whitespace(text).translate(WITHOUT_PUNCTUATION).lower().split())


CLEANERS: Mapping[str, Callable[[str], str]] = {
    "whitespace": clean_whitespace,
    "lower": clean_lower,
    "canonicalize": clean_canonical,
}


@dataclass(frozen=True)
class Reading:
    """What is known of a tokenizer beside its own file.

    clean: a name of CLEANERS. pad: id of padding; mask: of a hidden word, unknown: of pieces that the vocabulary does
    not have, -1 = there is none. dropped: id that is read as 0, -1 = none is.
    """

    clean: str
    pad: int
    mask: int = -1
    unknown: int = -1
    dropped: int = -1


@dataclass(frozen=True)
class LibrarySpecialTokens:
    """Ids of tokens that are no words. mask: None = there is none."""

    pad: int
    mask: int | None


class LibraryTokenizer:
    """A tokenizer of transformers, as open_clip uses it; a `dataset.tokens.TextTokenizer`.

    Special tokens that are written in a caption are text: `clean` takes them apart, as vocabularies of sentencepiece
    hold them among their pieces. Can be pickled to loader workers, forked or spawned.
    """

    def __init__(self, tokenizer: Tokenizer, reading: Reading):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer, self.reading = tokenizer, reading
        added = tokenizer.get_added_tokens_decoder()
        self.no_words = {number: token.content for number, token in added.items() if token.special}
        self.added = tokenizer.num_special_tokens_to_add(False)
        self.vocabulary_size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.unknown = reading.unknown
        self.special = LibrarySpecialTokens(reading.pad, reading.mask if reading.mask >= 0 else None)

    @classmethod
    def from_folder(cls, folder: Path, options: Mapping[str, Any]) -> "LibraryTokenizer":
        """The one that lies in a folder; options: `tokenizer_kwargs` of open_clip.

        Nothing is downloaded, and no code is run that may lie there. Raises UserError when there is none that fits.
        """
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            raise UserError(
                f"{folder} has no tokenizer.json: this model reads captions by a tokenizer of transformers; copy its"
                " files there, as they lie beside the published weights"
            )
        from transformers import AutoTokenizer  # slow to import, and loader workers never need it

        try:
            found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            tokenizer = Tokenizer.from_str(found.backend_tokenizer.to_str())
            pad, sep, mask, unknown = (
                getattr(found, f"{name}_token_id", None) for name in ("pad", "sep", "mask", "unk")
            )
            sides = {"padding": found.padding_side, "truncation": found.truncation_side}
        except Exception as error:  # transformers and tokenizers raise every type here, bare Exception too
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"the tokenizer in {folder} cannot be read: {reason}; copy its files there again") from None
        for what, side in sides.items():
            if side != "right":
                raise UserError(f"the tokenizer in {folder} has {what}_side {side!r}; only right is offered")
        if pad is None:
            raise UserError(f"the tokenizer in {folder} has no pad_token, with which captions are filled up; name it")
        if mask is None:
            mask = next((number for name in MASKS if (number := tokenizer.token_to_id(name)) is not None), None)
        dropped = sep if options.get("strip_sep_token") else None
        numbers = {"pad": pad, "mask": mask, "unknown": unknown, "dropped": dropped}
        known = {name: number for name, number in numbers.items() if number is not None}
        return cls(tokenizer, Reading(clean=options.get("clean", "whitespace"), **known))

    @classmethod
    def from_json(cls, text: str) -> "LibraryTokenizer":
        """The tokenizer that `to_json` described. Raises UserError when `text` is none."""
        try:
            found = json.loads(text)
            if found["type"] != TYPE or found["reading"]["clean"] not in CLEANERS:
                raise ValueError
            numbers = {name: int(number) for name, number in found["reading"].items() if name != "clean"}
            return cls(Tokenizer.from_str(found["tokenizer"]), Reading(found["reading"]["clean"], **numbers))
        except Exception:  # of whatever type: `tokenizers` raises bare ones
            raise UserError("not the JSON of a tokenizer of open_clip") from None

    def to_json(self) -> str:
        """The whole tokenizer as one string, to be kept inside a checkpoint."""
        about = {"type": TYPE, "reading": asdict(self.reading), "tokenizer": self._tokenizer.to_str()}
        return json.dumps(about, ensure_ascii=False)

    @property
    def words(self) -> WordIds:
        """Which ids are words. Without a mask token none may be hidden (`special`); padding stands in for it."""
        reading = self.reading
        named = {reading.pad, reading.mask, reading.unknown, reading.dropped} - {-1}
        mask = reading.pad if self.special.mask is None else self.special.mask
        return WordIds.of(self.vocabulary_size, {NO_LABEL, *self.no_words, *named}, mask)

    def clean(self, text: str, max_words: int | None = None) -> str:
        """A caption as written, as it is read; its words are not counted, its pieces are."""
        text = CLEANERS[self.reading.clean](text)
        for token in self.no_words.values():
            if token in text and not token.isalnum():
                text = text.replace(token, f"{token[:1]} {token[1:]}")
        return text

    def encode(self, caption: str, length: int) -> Encoded:
        """Cut a cleaned caption into pieces, at most `length` ids with those that are added at its start and end.

        What is too long loses its last pieces. Raises UserError when only what is added fits.
        """
        return self._cut(self._tokenizer.encode(caption, add_special_tokens=False), length)

    def encode_all(self, captions: Sequence[str], length: int) -> Iterator[Encoded]:
        """`encode` of many captions, on all cores."""
        return (self._cut(pieces, length) for pieces in pieces_of_all(self._tokenizer, captions))

    def _cut(self, pieces: Encoding, length: int) -> Encoded:
        """The pieces that are kept of a caption; see `encode`."""
        if length <= self.added:
            raise UserError(f"a caption of {length} tokens has no words: {self.added} are added to each; give more")
        pieces.truncate(length - self.added)
        whole = self._tokenizer.post_process(pieces, None, True)
        ids = [0 if number == self.reading.dropped else number for number in whole.ids]
        return Encoded(ids=ids, offsets=list(whole.offsets))

    def count_read(self, caption: str, max_words: int, max_tokens: int) -> int:
        """How many words of a cleaned caption are read whole, where `max_tokens` ids are."""
        pieces = self._tokenizer.encode(caption, add_special_tokens=False)
        return words_before(pieces, caption, max_tokens - self.added)

    def unknown_spans(self, encoded: Encoded) -> list[tuple[int, int]]:
        """The (start, end) characters that the vocabulary does not have; what lies side by side is one."""
        return unknown_spans(encoded, self.unknown)

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return LibraryTokenizer.from_json, (self.to_json(),)
