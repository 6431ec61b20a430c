"""Captions as models of open_clip read them by a tokenizer of transformers: the ids of open_clip, and refusals."""

import copy
import json

import numpy as np
import pytest

open_clip = pytest.importorskip("open_clip")

from tiny_library_models import WORDS, word_tokenizer  # noqa: E402
from transformers import BertTokenizer, GemmaTokenizer, T5Tokenizer  # noqa: E402

from dataset.library_tokens import LibraryTokenizer  # noqa: E402
from utils.errors import UserError  # noqa: E402

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SENTENCES = [
    "a woman in a red coat and blue jeans",
    "a man",
    "the man wears black, with a backpack, a coat, and jeans!",
]
ODD = [
    "  A Woman's <b>coat</b> &amp; snake_case, 2 bags!  ",
    "",
    "schÃ¶n — naïve",
    "the</s> end <unk> [x]",
    "e.g. 1.75m",
]


@pytest.mark.parametrize("clean", ["canonicalize", "lower", "whitespace"])
def test_captions_are_read_as_open_clip_reads_them(tmp_path, clean):
    word_tokenizer().save_pretrained(tmp_path)
    ours = LibraryTokenizer.from_folder(tmp_path, {"clean": clean})
    other = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=12, clean=clean)
    for caption in [*SENTENCES, *ODD]:
        cleaned = ours.clean(caption)
        assert cleaned == ours.clean(cleaned)
        if "< /s>" in cleaned:  # text here, a special token there
            assert 1 not in ours.encode(cleaned, 40).ids[:-1]
            continue
        assert cleaned == open_clip.tokenizer.get_clean_fn(clean)(caption)
        row, ids = other(caption)[0].tolist(), ours.encode(cleaned, 12).ids
        assert row == ids + [ours.special.pad] * (12 - len(ids))
        assert [one.ids for one in ours.encode_all([cleaned], 12)] == [ids]


def of_siglip() -> T5Tokenizer:
    """Sentencepiece as SigLIP has it: no mask, and padding that is the end."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, *(f"▁{word}" for word in WORDS)]
    return T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, pad_token="</s>")


def of_siglip2() -> GemmaTokenizer:
    """Byte pairs as SigLIP 2 has them, with a mask."""
    pieces, merges = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS], []
    for word in WORDS:
        for end in range(len(word)):
            left = f"▁{word[:end]}"
            if left + word[end] not in pieces:
                pieces.append(left + word[end])
                merges.append((left, word[end]))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    form = {"padding_side": "right", "add_bos_token": False, "add_eos_token": True}
    return GemmaTokenizer(vocab=vocabulary, merges=merges, **form)


def of_clipa() -> BertTokenizer:
    """Word pieces as CLIPA has them, whose separator is read as padding."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})


@pytest.mark.parametrize(
    ("make", "options", "special"),
    [
        (of_siglip, {"clean": "canonicalize"}, (1, None)),
        (of_siglip2, {"clean": "canonicalize"}, (0, 4)),
        (of_clipa, {"strip_sep_token": True}, (0, 4)),
    ],
)
def test_published_tokenizers_give_the_ids_of_open_clip(tmp_path, make, options, special):
    make().save_pretrained(tmp_path)
    ours = LibraryTokenizer.from_folder(tmp_path, options)
    assert (ours.special.pad, ours.special.mask) == special
    other = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=16, **options)
    for caption in [*SENTENCES, "", "a qzx naïve coat ! " * 5]:
        ids = ours.encode(ours.clean(caption), 16).ids
        assert ids + [ours.special.pad] * (16 - len(ids)) == other(caption)[0].tolist()


def test_a_tokenizer_comes_back_from_a_checkpoint(tmp_path):
    word_tokenizer(mask=True).save_pretrained(tmp_path)
    ours = LibraryTokenizer.from_folder(tmp_path, {"clean": "canonicalize"})
    for again in (LibraryTokenizer.from_json(ours.to_json()), copy.deepcopy(ours)):
        assert again.to_json() == ours.to_json() and again.special == ours.special
        assert again.encode("the red coat", 9) == ours.encode("the red coat", 9)
    assert ours.special.mask == 3 and ours.words.mask == 3
    assert ours.words.among(np.array([0, 1, 2, 3, 5, 40])).tolist() == [False] * 4 + [True] * 2
    for text in ("{}", "[", '{"type": "clip-bpe", "merges": []}', ours.to_json().replace("canonicalize", "odd")):
        with pytest.raises(UserError, match="not the JSON of a tokenizer of open_clip"):
            LibraryTokenizer.from_json(text)


def test_words_that_are_read_whole_are_counted(tmp_path):
    word_tokenizer().save_pretrained(tmp_path)
    ours = LibraryTokenizer.from_folder(tmp_path, {"clean": "canonicalize"})
    caption = "the red coat and black jeans"  # a piece for each word, and an end
    assert [ours.count_read(caption, 99, most) for most in (2, 4, 6, 7)] == [1, 3, 5, 6]
    assert ours.unknown_spans(ours.encode("red ü coat", 9)) == [(4, 5)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"padding_side": "left"}, "padding_side 'left'"),
        ({"truncation_side": "left"}, "truncation_side 'left'"),
        ({"pad_token": None}, "has no pad_token"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, settings, told):
    word_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(UserError, match=told):
        LibraryTokenizer.from_folder(tmp_path, {})
