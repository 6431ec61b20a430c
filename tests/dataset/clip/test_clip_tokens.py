"""CLIP's tokenizer: published ids, a plain twin, offsets, what is text, saving."""

import gzip
import html
import itertools
import json
import pickle
import random
import re
import string
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import ftfy
import pytest
import regex
import torch
from clip_golden import clip_parts
from harness import REPOSITORY

from dataset import clip_tokens
from dataset.clip_tokens import ClipSpecialTokens, ClipTokenizer, clean_clip_caption
from utils.errors import UserError

LENGTH = 77
GOLDEN = clip_parts("tokenizer")
OBEYED = "<|mask|> person <|ENDOFTEXT|> x"  # the published code reads the special tokens that are written in it


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer.from_package()


# ---- a plain twin ----------------------------------------------------------------------


def letter_of_byte() -> dict[int, str]:
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{byte: chr(byte) for byte in shown}, **{byte: chr(256 + n) for n, byte in enumerate(hidden)}}


@cache
def ranks_and_ids() -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    file = Path(find_spec("open_clip").submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1:48894]]
    letters = list(letter_of_byte().values())
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges]
    return {merge: rank for rank, merge in enumerate(merges)}, {token: number for number, token in enumerate(tokens)}


@cache
def plain_piece(piece: str) -> tuple[int, ...]:
    """One piece, by merging the pair of lowest rank wherever it stands until there is none."""
    ranks, ids = ranks_and_ids()
    symbols = [letter_of_byte()[byte] for byte in piece.encode()]
    symbols[-1] += "</w>"
    while True:
        pairs = [pair for pair in itertools.pairwise(symbols) if pair in ranks]
        if not pairs:
            return tuple(ids[symbol] for symbol in symbols)
        first, second = min(pairs, key=ranks.__getitem__)
        merged: list[str] = []
        while symbols:
            if symbols[:2] == [first, second]:
                merged.append(first + second)
                symbols = symbols[2:]
            else:
                merged.append(symbols.pop(0))
        symbols = merged


def plain_ids(text: str) -> list[int]:
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = " ".join(text.split()).lower()
    pieces = regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", text, regex.IGNORECASE)
    return [49406, *(number for piece in pieces for number in plain_piece(piece)), 49407]


def plain_row(ids: list[int], length: int) -> list[int]:
    if len(ids) > length:
        ids = [*ids[: length - 1], 49407]
    return ids + [0] * (length - len(ids))


# signs, letters with and without accents or of other scripts, marks, numbers, pictures, and pieces of markup
SIGNS = " \t\n\u00a0\u3000!?.,;:'\"-_/\\&<>|#@()[]{}~`^*+=%$\u2014\u2026\u201c\u2019\u0301\u200d\u00ad"
LETTERS = "ABC\u00c4\u00d6\u00e9\u00ef\u00df\u00f8\u00f1\u017d\u0130\u03a3\u03c3\u03c2"
OTHER_LETTERS = "\u0436\u042f\u05d0\u0628\u4eba\u3072\uff76\ud55c"
NUMBERS = "0123456789\u00bd\u00b2\u0663\u2167\u20ac\u2122\U0001f600\U0001f469\U0001f3fd"
WORDS = "'s 'RE 've 'm 'll 'D n't jekyll habib pedestrian woman backpack </w> <|mask|> <|startoftext|> <|endoftext|>"
MARKUP = "&amp; &lt; &amp;quot; &#39; &nbsp; \u00c3\u00a9 \u00e2\u20ac\u2122"  # the last two: UTF-8 read as Latin
PARTS = [*string.ascii_lowercase, *SIGNS, *LETTERS, *OTHER_LETTERS, *NUMBERS, *WORDS.split(), *MARKUP.split()]


def fuzzed(rng: random.Random) -> str:
    return "".join(rng.choice(PARTS) for _ in range(rng.randrange(60)))


def test_ids_are_those_of_the_plain_twin(tokenizer):
    rng = random.Random(0)
    for text in (fuzzed(rng) for _ in range(600)):
        caption, expected = clean_clip_caption(text), plain_ids(text)
        for length in (12, LENGTH):
            assert tokenizer.rows([caption], length)[0].tolist() == plain_row(expected, length), ascii(text)


# ---- published ids ---------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_ids_are_the_published_ones(tokenizer, name):
    texts, expected = GOLDEN[name]["texts"], GOLDEN[name]["ids"]
    assert OBEYED in texts
    rows = tokenizer.rows([clean_clip_caption(text) for text in texts], LENGTH)
    for text, row, published in zip(texts, rows, expected, strict=True):
        assert row.equal(published) == (text != OBEYED), text


def test_special_tokens_in_a_caption_are_text(tokenizer):
    row = tokenizer.rows([clean_clip_caption(OBEYED)], LENGTH)[0].tolist()
    assert row == plain_row(plain_ids(OBEYED), LENGTH)
    assert 49405 not in row and row.count(49407) == row.count(49406) == 1


def test_the_word_whose_id_became_the_mask_can_be_written(tokenizer):
    encoded = tokenizer.encode("jekyll", LENGTH)
    assert [encoded.offsets[1:-1]] == [[(0, 4), (4, 6)]]
    assert max(encoded.ids[1:-1]) < 49405


def test_special_ids_are_the_last_three_and_padding(tokenizer):
    assert tokenizer.special == ClipSpecialTokens(mask=49405, start=49406, end=49407, pad=0)
    assert tokenizer.vocabulary_size == 49408
    assert tokenizer.encode("", LENGTH).ids == [49406, 49407]
    assert tokenizer.encode("!", LENGTH).ids == [49406, 256, 49407]  # alone; the 0 of padding is within words


# ---- rows and offsets ------------------------------------------------------------------


def test_a_long_caption_is_cut_and_keeps_its_end(tokenizer):
    row = tokenizer.rows(["pedestrian " * 100], 10)
    assert row.dtype == torch.int64 and row.shape == (1, 10)
    assert row[0].tolist() == [49406, *[18256] * 8, 49407]
    assert tokenizer.rows(["pedestrian " * 8], 10).equal(row)
    assert tokenizer.rows([], 10).shape == (0, 10)


def test_many_captions_are_cut_as_each_of_them(tokenizer):
    captions = ["a red coat " * (number % 9) for number in range(600)]
    assert list(tokenizer.encode_all(captions, 12)) == [tokenizer.encode(caption, 12) for caption in captions]


def test_a_length_without_words_is_refused(tokenizer):
    assert tokenizer.encode("a coat", 2).ids == [49406, 49407]
    with pytest.raises(UserError, match="of 1 tokens has no words"):
        tokenizer.encode("a coat", 1)


def test_offsets_are_characters_of_the_cleaned_caption(tokenizer):
    caption = clean_clip_caption("A man's  café-coloured&nbsp;coat, 25 人")
    encoded = tokenizer.encode(caption, LENGTH)
    cut = [caption[start:end] for start, end in encoded.offsets[1:-1]]
    assert encoded.offsets[0] == encoded.offsets[-1] == (0, 0)
    assert cut[:8] == ["a", "man", "'s", "café", "-", "coloured", "coat", ","]
    assert cut[8:10] == ["2", "5"] and set(cut[10:]) == {"人"}


def test_captions_are_cleaned_as_published():
    cleaned = clean_clip_caption(" A woman&amp;amp;man\r\n\u2028 with\u00a0an &lt;b&gt; it\u2019s ")
    assert cleaned == "a woman&man with an <b> it's"
    assert clean_clip_caption("Ã‰clairs and a cafÃ©") == "éclairs and a café"
    assert clean_clip_caption("half \ud83d") == "half \ufffd"


# ---- keeping it ------------------------------------------------------------------------


def test_a_checkpoint_can_hold_it_and_processes_can_be_sent_it(tokenizer):
    caption = clean_clip_caption("A jekyll's café-coloured coat")
    for other in (ClipTokenizer.from_json(tokenizer.to_json()), pickle.loads(pickle.dumps(tokenizer))):
        assert other.encode(caption, LENGTH) == tokenizer.encode(caption, LENGTH)
        assert other.special == tokenizer.special and other.to_json() == tokenizer.to_json()
    assert len(tokenizer.to_json()) < 700_000


def test_a_small_vocabulary_will_do():
    small = ClipTokenizer([("r", "e"), ("re", "d</w>")])
    assert small.vocabulary_size == 517 and small.special == ClipSpecialTokens(514, 515, 516)
    assert small.encode("red", 5).ids == [515, 513, 516]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not the JSON"),
        ("[" * 100_000, "not the JSON"),
        ('{"type": "clip-bpe"}', "not the JSON"),
        ('{"type": "WordPiece", "merges": []}', "not the JSON"),
        ('{"type": "clip-bpe", "merges": [["r", "e"]]}', "not the JSON"),
        ('{"type": "clip-bpe", "merges": ["re"]}', "'re' is not two symbols"),
        ('{"type": "clip-bpe", "merges": ["r e f"]}', "'r e f' is not two symbols"),
        ('{"type": "clip-bpe", "merges": ["re d"]}', "of 're', which none gives"),
        ('{"type": "clip-bpe", "merges": ["r e", "r e"]}', "two merges give the same"),
    ],
)
def test_what_is_no_tokenizer_is_refused_in_a_line(text, problem):
    with pytest.raises(UserError, match=re.escape(problem)) as raised:
        ClipTokenizer.from_json(text)
    assert "\n" not in str(raised.value)


def test_evaluation_needs_no_package_beside_the_checkpoint(tokenizer, monkeypatch):
    monkeypatch.setattr(clip_tokens, "find_spec", lambda name: None)
    assert ClipTokenizer.from_json(tokenizer.to_json()).vocabulary_size == 49408
    with pytest.raises(UserError, match=r"open_clip_torch.* is not installed: install requirements/clip\.txt"):
        ClipTokenizer.from_package()


def test_another_file_of_the_package_is_refused(monkeypatch, tmp_path):
    package = tmp_path / "open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    for content in (None, gzip.compress(b"#version\nr e\n")):
        if content:
            (package / "bpe_simple_vocab_16e6.txt.gz").write_bytes(content)
        with pytest.raises(UserError, match="absent or not the vocabulary of CLIP"):
            ClipTokenizer.from_package()


def test_slow_packages_are_imported_where_they_are_used():
    code = (
        "import sys, json, dataset.clip_tokens as c, dataset.word_noise, dataset.noisy_pairs, models.clip.division;"
        "c.ClipTokenizer.from_package();"
        "print(json.dumps([n for n in ('open_clip', 'ftfy', 'sklearn', 'timm', 'transformers') if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
