"""Captions as word pieces: a lower-case BERT tokenizer that remembers character offsets.

B captions, T word pieces of the longest one.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from dataset.batch import SpecialTokens
from dataset.captions import clean_caption
from dataset.word_noise import WordIds
from utils.errors import UserError
from utils.files import atomic_write, write_json
from utils.processes.parallel import available_cores

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
Ids = Sequence[int] | np.ndarray
AT_ONCE = 250  # captions that are encoded together: what the library makes of one takes some kilobytes
MAX_PIECES = 3  # of a character: some have several once they are normalised
_NO_CHARACTERS = (0, 0)


@dataclass(frozen=True)
class Encoded:
    """One caption as [CLS] word pieces [SEP].

    ids[i] was cut from characters offsets[i] = (start, end) of the caption; (0, 0) for [CLS], [SEP].
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


class Special(Protocol):
    """What all tokenizers have of tokens that are no words."""

    @property
    def pad(self) -> int: ...


class TextTokenizer(Protocol):
    """What training data, evaluation and search ask of a tokenizer: BERT's (`CaptionTokenizer`), CLIP's, or another.

    unknown: id of pieces that the vocabulary does not have; -1 = it has all. The methods are as those of
    `CaptionTokenizer`; captions given to all but `clean` are cleaned.
    """

    unknown: int
    vocabulary_size: int

    @property
    def special(self) -> Special: ...

    @property
    def words(self) -> WordIds:
        """Which ids are words, such as may be masked or put in for others."""
        ...

    def clean(self, text: str, max_words: int | None) -> str:
        """A caption as written, as it is read: its first `max_words` words, where they are counted (None = all)."""
        ...

    def encode(self, caption: str, max_tokens: int) -> Encoded: ...

    def encode_all(self, captions: Sequence[str], max_tokens: int) -> Iterator[Encoded]: ...

    def count_read(self, caption: str, max_words: int, max_tokens: int) -> int: ...

    def unknown_spans(self, encoded: Encoded) -> list[tuple[int, int]]: ...

    def to_json(self) -> str: ...


class CaptionTokenizer:
    """A BERT word-piece tokenizer for captions that `clean_caption` has cleaned.

    Can be pickled to loader workers, forked or spawned.
    """

    special: SpecialTokens
    unknown: int  # id of [UNK]
    vocabulary_size: int

    def __init__(self, tokenizer: Tokenizer, origin: str = "this tokenizer"):
        """`origin` names where it came from in error messages. Raises UserError if it is not BERT's kind."""
        _check_bert(tokenizer, origin)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "[MASK]" written in a caption is text, not the mask
        self._tokenizer = tokenizer
        pad, cls, sep, mask = (int(tokenizer.token_to_id(name) or 0) for name in (PAD, CLS, SEP, MASK))
        self.special = SpecialTokens(pad=pad, cls=cls, sep=sep, mask=mask)
        self.unknown = int(tokenizer.token_to_id(UNKNOWN) or 0)
        self.vocabulary_size = tokenizer.get_vocab_size()

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike) -> "CaptionTokenizer":
        """Load from a local folder (`tokenizer.json` or `vocab.txt`) or by a model hub's name.

        Raises UserError when it is not there, cannot be reached, or is not a lower-case BERT tokenizer.
        """
        name = os.fspath(name_or_folder)
        load = _load_from_folder if Path(name).is_dir() else _load_from_hub
        return cls(load(name), origin=f"tokenizer {name}")

    @classmethod
    def train(cls, captions: Iterable[str], vocabulary_size: int = 4000, min_frequency: int = 2) -> "CaptionTokenizer":
        """Learn a small vocabulary from cleaned captions; the same captions give the same one.

        [PAD] is 0, then [UNK] [CLS] [SEP] [MASK], then every character seen, first and later in a word;
        merges seen `min_frequency` times fill up to `vocabulary_size` (exceeded only by characters).
        Raises UserError when there are no words.
        """
        captions = list(captions)
        special = [PAD, UNKNOWN, CLS, SEP, MASK]
        characters = _characters(captions)
        if not characters:
            raise UserError("cannot learn a vocabulary: the captions hold no words")
        # The trainer numbers continuing characters in a random order; named as special tokens
        # they come first, in ours, and the whole vocabulary is the same in every run.
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocabulary_size,
            min_frequency=min_frequency,
            special_tokens=[*special, *characters, *("##" + letter for letter in characters)],
            show_progress=False,
        )
        learner = _bert_tokenizer({UNKNOWN: 0})
        with _without_threads():
            learner.train_from_iterator(captions, trainer)
        tokenizer = _bert_tokenizer(learner.get_vocab())
        tokenizer.add_special_tokens(special)
        return cls(tokenizer)

    @classmethod
    def from_json(cls, text: str) -> "CaptionTokenizer":
        """The tokenizer that `to_json` described. Raises UserError when `text` is none."""
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the only type that `tokenizers` raises
            raise UserError(f"not the JSON of a tokenizer: {_one_line(error)}") from None
        return cls(tokenizer)

    def to_json(self) -> str:
        """The whole tokenizer as one string, to be kept inside a checkpoint."""
        return self._tokenizer.to_str()

    def save(self, folder: str | os.PathLike) -> None:
        """Write a folder that `from_pretrained`, here and in transformers, can read. Raises UserError."""
        with atomic_write(Path(folder) / "tokenizer.json") as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")
        settings = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "pad_token": PAD,
            "unk_token": UNKNOWN,
            "cls_token": CLS,
            "sep_token": SEP,
            "mask_token": MASK,
        }
        write_json(Path(folder) / "tokenizer_config.json", settings, indent=2)

    @property
    def words(self) -> WordIds:
        """Which ids are words: all but [PAD], [UNK], [CLS], [SEP] and [MASK]."""
        return WordIds.of(self.vocabulary_size, (*astuple(self.special), self.unknown), self.special.mask)

    def clean(self, text: str, max_words: int | None) -> str:
        """A caption as written, as it is read: see `clean_caption`."""
        return clean_caption(text, max_words)

    def encode(self, caption: str, max_tokens: int | None) -> Encoded:
        """Cut a cleaned caption into word pieces, at most `max_tokens` with [CLS] and [SEP] (None = all).

        What is too long loses its end, never its [SEP]. Raises UserError when not even both fit.
        """
        return self._cut(self._tokenizer.encode(caption, add_special_tokens=False), max_tokens)

    def encode_all(self, captions: Sequence[str], max_tokens: int | None) -> Iterator[Encoded]:
        """`encode` of many captions, on all cores."""
        return (self._cut(words, max_tokens) for words in pieces_of_all(self._tokenizer, captions))

    def _cut(self, words: Encoding, max_tokens: int | None) -> Encoded:
        """The word pieces that are kept of a caption; see `encode`."""
        if max_tokens is not None and max_tokens < 2:
            raise UserError(f"max_tokens is {max_tokens}, but [CLS] and [SEP] alone are 2: give 3 or more")
        kept = len(words.ids) if max_tokens is None else max_tokens - 2
        return Encoded(
            ids=[self.special.cls, *words.ids[:kept], self.special.sep],
            offsets=[_NO_CHARACTERS, *words.offsets[:kept], _NO_CHARACTERS],
        )

    def count_read(self, caption: str, max_words: int, max_tokens: int) -> int:
        """How many words of a cleaned caption of any length are read whole, where it is cut to these numbers."""
        words = caption.split(" ")[:max_words]
        kept = " ".join(words)
        if MAX_PIECES * len(kept) <= max_tokens - 2:
            return len(words)
        return words_before(self._tokenizer.encode(kept, add_special_tokens=False), kept, max_tokens - 2)

    def unknown_spans(self, encoded: Encoded) -> list[tuple[int, int]]:
        """The (start, end) characters that were read as [UNK]; what lies side by side is one."""
        return unknown_spans(encoded, self.unknown)

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return CaptionTokenizer.from_json, (self.to_json(),)


def pieces_of_all(tokenizer: Tokenizer, captions: Sequence[str]) -> Iterator[Encoding]:
    """The pieces of each caption, without special tokens, on all cores."""
    portions = [captions[start : start + AT_ONCE] for start in range(0, len(captions), AT_ONCE)]
    cores = available_cores()
    encode = partial(tokenizer.encode_batch, add_special_tokens=False)
    with _without_threads(), ThreadPoolExecutor(cores) as pool:  # of Python, which are gone afterwards
        for start in range(0, len(portions), cores):
            yield from chain.from_iterable(pool.map(encode, portions[start : start + cores]))


def words_before(pieces: Encoding, caption: str, kept: int) -> int:
    """How many words of a caption are read whole by its first `kept` pieces; a piece may begin with a space."""
    if len(pieces.offsets) <= kept:
        return caption.count(" ") + 1
    start = pieces.offsets[kept][0]
    return caption[: start + 1 if caption[start : start + 1] == " " else start].count(" ")


def unknown_spans(encoded: Encoded, unknown: int) -> list[tuple[int, int]]:
    """The (start, end) characters of pieces with the id `unknown`; what lies side by side is one."""
    spans: list[tuple[int, int]] = []
    for piece, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        if piece != unknown:
            continue
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, end))
    return spans


def pad_batch(rows: Sequence[Ids], pad_id: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows of ids, padded at their end to `length` (None = the longest row).

    Returns ids [B, T] int64 and mask [B, T] bool, True = token, False = padding.
    Raises ValueError when a row is longer than `length`.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    longest = int(lengths.max(initial=0))
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"a row of {longest} ids does not fit into {length}")
    mask = np.arange(length) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    if longest:
        ids[mask] = np.concatenate(rows, dtype=np.int64, casting="unsafe")
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _bert_tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    """BERT's normalisation (lower case, no accents) and word splitting around `vocabulary`."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _characters(captions: Iterable[str]) -> list[str]:
    """Every character of the captions' words, normalised, in order."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    seen: set[str] = set()
    for caption in captions:
        seen.update(normalizer.normalize_str(caption))
    return sorted(letter for letter in seen if not letter.isspace())


@contextlib.contextmanager
def _without_threads() -> Iterator[None]:
    """Keep `tokenizers` from starting threads: they would not survive the fork of a loader worker.

    Some of its versions warn at every fork that follows. The environment is then as it was.
    """
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _check_bert(tokenizer: Tokenizer, origin: str) -> None:
    """Raises UserError unless it is word-piece, lower-case and has BERT's special tokens."""
    kind = json.loads(tokenizer.to_str())["model"]["type"]
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    missing = [name for name in (PAD, UNKNOWN, CLS, SEP, MASK) if name not in vocabulary]
    if kind != "WordPiece":
        problem = f"is {kind}, not word-piece"
    elif missing:
        problem = f"has no {' '.join(missing)} in its vocabulary"
    elif tokenizer.normalizer is None or tokenizer.normalizer.normalize_str("A") != "a":
        problem = "keeps upper case"
    else:
        return
    raise UserError(f"{origin} {problem}: use a lower-case BERT tokenizer such as bert-base-uncased")


def _load_from_folder(folder: str) -> Tokenizer:
    """Raises UserError when the folder holds no readable tokenizer."""
    whole, vocabulary = Path(folder) / "tokenizer.json", Path(folder) / "vocab.txt"
    if not whole.is_file() and not vocabulary.is_file():
        raise UserError(f"tokenizer folder {folder} holds no tokenizer.json and no vocab.txt: put one there")
    try:
        if whole.is_file():
            return Tokenizer.from_file(str(whole))
        # slow to import, and loader workers never need it
        from transformers import BertTokenizer

        return BertTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # transformers and tokenizers raise every type here, bare Exception too
        raise UserError(f"tokenizer folder {folder} cannot be read: {_one_line(error)}") from None


def _load_from_hub(name: str) -> Tokenizer:
    """From the local copy of the hub when there is one. Raises UserError when `name` cannot be had."""
    import transformers  # slow to import, and loader workers never need it

    try:
        return transformers.AutoTokenizer.from_pretrained(name, local_files_only=True).backend_tokenizer
    except Exception:  # not downloaded before: ask the hub
        try:
            return transformers.AutoTokenizer.from_pretrained(name).backend_tokenizer
        except Exception as error:
            raise UserError(
                f"tokenizer {name} is neither a folder here nor reachable on the model hub: give a folder "
                f"that holds vocab.txt or tokenizer.json, or check the name ({_one_line(error)})"
            ) from None


def _one_line(error: Exception) -> str:
    """The first line of a message that may have many."""
    return (str(error) or type(error).__name__).splitlines()[0]
