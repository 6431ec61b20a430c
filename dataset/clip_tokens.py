"""Captions as CLIP reads them: byte-pair encoding, with a mask token in place of the last merge.

B captions, T ids of a row (77 in the released models).
"""

import functools
import gzip
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from importlib.machinery import ModuleSpec
from importlib.resources import files
from importlib.util import find_spec, module_from_spec

import numpy as np
import torch
from tokenizers import Encoding, Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor

from dataset.tokens import Encoded, pieces_of_all, words_before
from dataset.word_noise import WordIds
from utils.errors import UserError

WORD_END = "</w>"  # what the last symbol of a word carries
PACKAGE, MERGES_FILE = "open_clip", "bpe_simple_vocab_16e6.txt.gz"
MERGES_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 48893  # of the file; CLIP has one more ("jekyll"), whose id became that of the mask
TYPE = "clip-bpe"
# contractions, letters, single digits, and runs of anything else but spaces
PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_NO_CHARACTERS = (0, 0)


@dataclass(frozen=True)
class ClipSpecialTokens:
    """The ids of the tokens that are no words: the last three of the vocabulary, and padding.

    Id 0 is also the symbol `!` within a word. `end` is the highest
    id: where a row has its maximum, the caption ends.
    """

    mask: int
    start: int
    end: int
    pad: int = 0

    @classmethod
    def of(cls, vocabulary_size: int) -> "ClipSpecialTokens":
        return cls(mask=vocabulary_size - 3, start=vocabulary_size - 2, end=vocabulary_size - 1)


class ClipTokenizer:
    """CLIP's byte-pair encoding, for captions that `clean_clip_caption` has cleaned.

    Special tokens that are written in a caption are text. Can be pickled to loader workers, forked or spawned.
    """

    special: ClipSpecialTokens
    vocabulary_size: int
    unknown = -1  # every byte has a symbol

    def __init__(self, merges: Sequence[tuple[str, str]]):
        """merges: pairs of symbols, in the order in which they are applied. Raises UserError if they are not such."""
        symbols = byte_symbols()
        tokens = [*symbols, *(symbol + WORD_END for symbol in symbols), *(left + right for left, right in merges)]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        unknown = next((part for pair in merges for part in pair if part not in vocabulary), None)
        if unknown is not None or len(vocabulary) != len(tokens):
            problem = "two merges give the same" if unknown is None else f"a merge is of {unknown!a}, which none gives"
            raise UserError(f"these are not the merges of a tokenizer: {problem}")
        self.merges = tuple(merges)
        self.vocabulary_size = len(tokens) + 3
        self.special = ClipSpecialTokens.of(self.vocabulary_size)
        self._tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), end_of_word_suffix=WORD_END))
        pieces = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
        as_symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, as_symbols])

    @classmethod
    def from_package(cls) -> "ClipTokenizer":
        """The vocabulary of the released models, as the package open_clip_torch carries it.

        Raises UserError when that is not installed, or has another file.
        """
        lines = gzip.decompress(_packaged_merges()).decode("utf-8").splitlines()[1 : MERGES + 1]
        return cls([_as_pair(line) for line in lines])

    @classmethod
    def from_json(cls, text: str) -> "ClipTokenizer":
        """The tokenizer that `to_json` described. Raises UserError when `text` is none."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        merges = found.get("merges") if isinstance(found, dict) and found.get("type") == TYPE else None
        if not isinstance(merges, list) or not all(isinstance(merge, str) for merge in merges):
            raise UserError("not the JSON of a CLIP tokenizer")
        return cls([_as_pair(merge) for merge in merges])

    def to_json(self) -> str:
        """The whole tokenizer as one string, to be kept inside a checkpoint: its merges, from which all follows."""
        merges = [f"{left} {right}" for left, right in self.merges]
        return json.dumps({"type": TYPE, "merges": merges}, ensure_ascii=False)

    def encode(self, caption: str, length: int) -> Encoded:
        """Cut a cleaned caption into pieces between start and end, at most `length` ids with both.

        What is too long loses its last pieces, never its end. Raises UserError when not even both fit.
        """
        return self._cut(self._tokenizer.encode(caption, add_special_tokens=False), length)

    def encode_all(self, captions: Sequence[str], length: int) -> Iterator[Encoded]:
        """`encode` of many captions, on all cores."""
        return (self._cut(pieces, length) for pieces in pieces_of_all(self._tokenizer, captions))

    def _cut(self, pieces: Encoding, length: int) -> Encoded:
        """The pieces that are kept of a caption; see `encode`."""
        if length < 2:
            raise UserError(f"a caption of {length} tokens has no words: its start and its end alone are 2")
        kept = length - 2
        return Encoded(
            ids=[self.special.start, *pieces.ids[:kept], self.special.end],
            offsets=[_NO_CHARACTERS, *pieces.offsets[:kept], _NO_CHARACTERS],
        )

    @property
    def words(self) -> WordIds:
        """Which ids are words: 1 to mask - 1."""
        return WordIds.of(self.vocabulary_size, astuple(self.special), self.special.mask)

    def clean(self, text: str, max_words: int | None = None) -> str:
        """A caption as written, as it is read: see `clean_clip_caption`; its words are not counted, its pieces are."""
        return clean_clip_caption(text)

    def count_read(self, caption: str, max_words: int, max_tokens: int) -> int:
        """How many words of a cleaned caption are read whole, where `max_tokens` ids are."""
        return words_before(self._tokenizer.encode(caption, add_special_tokens=False), caption, max_tokens - 2)

    def unknown_spans(self, encoded: Encoded) -> list[tuple[int, int]]:
        """The (start, end) characters that the vocabulary does not have: none."""
        return []

    def rows(self, captions: Iterable[str], length: int) -> Tensor:
        """Cleaned captions as the model takes them: ids [B, T = length] int64, padded at their end."""
        encoded = [self.encode(caption, length).ids for caption in captions]
        rows = np.full((len(encoded), length), self.special.pad, np.int64)
        for row, ids in zip(rows, encoded, strict=True):
            row[: len(ids)] = ids
        return torch.from_numpy(rows)

    def __reduce__(self) -> tuple[Callable, tuple[tuple[tuple[str, str], ...]]]:
        return ClipTokenizer, (self.merges,)


def clean_clip_caption(text: str) -> str:
    """Repair what was decoded wrongly, resolve HTML entities, join white space to single spaces, and lower the case.

    Punctuation stays, unlike in `dataset.captions.clean_caption`.
    """
    import ftfy  # of the group clip

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip().lower()


@functools.cache
def byte_symbols() -> tuple[str, ...]:
    """The 256 symbols that stand for bytes, in the order of their ids.

    Printable characters of Latin-1 stand for themselves and come first; every other byte has a letter from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return tuple(map(chr, [*printable, *range(256, 256 + others)]))


def _as_pair(merge: str) -> tuple[str, str]:
    """Raises UserError unless it is two symbols with a space between them."""
    match merge.split(" "):
        case [left, right] if left and right:
            return left, right
    raise UserError(f"these are not the merges of a tokenizer: {merge!a} is not two symbols")


def _packaged_merges() -> bytes:
    """The file of merges of the installed package, which is not imported: that takes seconds.

    Raises UserError when the package is not there, or its file is another one.
    """
    spec = find_spec(PACKAGE)
    if spec is None:
        raise UserError(
            "the package open_clip_torch, which has CLIP's vocabulary, is not installed: install requirements/clip.txt"
        )
    content = _read(spec)
    if hashlib.sha256(content).hexdigest() != MERGES_SHA256:
        raise UserError(
            f"{MERGES_FILE} of the installed package open_clip_torch is absent or not the vocabulary of CLIP:"
            " install the version of requirements/clip.txt"
        )
    return content


def _read(spec: ModuleSpec) -> bytes:
    """What the package holds under `MERGES_FILE`; nothing where it has no such file."""
    try:
        return files(module_from_spec(spec)).joinpath(MERGES_FILE).read_bytes()
    except OSError:
        return b""
