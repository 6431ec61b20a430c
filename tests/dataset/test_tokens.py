"""The caption tokenizer: word pieces, offsets, saving, and padding."""

import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from dataset.tokens import CaptionTokenizer, SpecialTokens, pad_batch
from dataset.unknown_words import UnknownWords
from utils.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "red", "cafe", "coat", "back", "##pack"]
CAPTIONS = [
    "a woman with a red coat grey jeans and a black backpack",
    "a young man wears a black t shirt and carries a backpack",
]


def word_pieces(words, lowercase=True):
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def in_another_process(script, *arguments):
    """What a fresh Python writes; nothing may go to its standard error."""
    command = [sys.executable, "-c", script, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return run.stdout


@pytest.fixture
def tokenizer():
    return CaptionTokenizer(word_pieces(SPECIAL + WORDS))


def test_a_caption_becomes_word_pieces_between_cls_and_sep(tokenizer):
    encoded = tokenizer.encode("a red backpack", None)
    assert encoded.ids == [2, 5, 6, 9, 10, 3]
    assert encoded.offsets == [(0, 0), (0, 1), (2, 5), (6, 10), (10, 14), (0, 0)]
    assert tokenizer.special == SpecialTokens(pad=0, cls=2, sep=3, mask=4)
    assert tokenizer.vocabulary_size == 11


def test_offsets_count_characters_not_bytes(tokenizer):
    encoded = tokenizer.encode("a café 外套 coat", None)
    assert encoded.ids == [2, 5, 7, 1, 1, 8, 3]  # accents go, unknown letters are [UNK]
    assert encoded.offsets[2:6] == [(2, 6), (7, 8), (8, 9), (10, 14)]


def test_truncation_keeps_sep_last(tokenizer):
    encoded = tokenizer.encode("a red backpack", 5)
    assert encoded.ids == [2, 5, 6, 9, 3]
    assert encoded.offsets == [(0, 0), (0, 1), (2, 5), (6, 10), (0, 0)]
    assert tokenizer.encode("a red backpack", 6).ids == [2, 5, 6, 9, 10, 3]
    assert tokenizer.encode("a red backpack", 2).ids == [2, 3]
    with pytest.raises(UserError, match="max_tokens is 1"):
        tokenizer.encode("a", 1)


def test_an_empty_caption_is_cls_and_sep(tokenizer):
    assert tokenizer.encode("", 75).ids == [2, 3]


def test_special_tokens_written_in_a_caption_are_text():
    learned = CaptionTokenizer.train(CAPTIONS)
    for tokenizer in (learned, CaptionTokenizer.from_json(learned.to_json())):
        assert not set(tokenizer.encode("a [MASK] [PAD] [SEP]", None).ids[1:-1]) & {0, 2, 3, 4}


def test_saved_padding_and_truncation_are_switched_off():
    saved = word_pieces(SPECIAL + WORDS)
    saved.enable_truncation(2)
    saved.enable_padding(length=9)
    assert CaptionTokenizer(saved).encode("a red coat", None).ids == [2, 5, 6, 8, 3]


# ---- training ----


def test_a_learned_vocabulary_holds_the_special_tokens_and_every_character():
    tokenizer = CaptionTokenizer.train([*CAPTIONS, "a café"], vocabulary_size=200)
    vocabulary = json.loads(tokenizer.to_json())["model"]["vocab"]
    assert [vocabulary[name] for name in SPECIAL] == [0, 1, 2, 3, 4]
    assert sorted(vocabulary.values()) == list(range(tokenizer.vocabulary_size))
    assert {"f", "##f", "z", "##z"} & vocabulary.keys() == {"f", "##f"}
    assert "backpack" in vocabulary  # seen twice
    assert "woman" not in vocabulary  # seen once
    assert 1 not in tokenizer.encode("cab of jackets", None).ids


def test_a_learned_vocabulary_has_the_size_asked_for():
    assert CaptionTokenizer.train(CAPTIONS * 2, vocabulary_size=60).vocabulary_size == 60


def test_another_process_learns_the_same():
    script = (
        "import sys; from dataset.tokens import CaptionTokenizer\n"
        "sys.stdout.write(CaptionTokenizer.train(sys.argv[1:], 80).to_json())"
    )
    assert in_another_process(script, *CAPTIONS) == CaptionTokenizer.train(CAPTIONS, 80).to_json()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted as Linux lists them")
def test_training_starts_no_threads_that_a_fork_would_lose():
    script = (
        "import os, sys; from dataset.tokens import CaptionTokenizer\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = threads()\n"
        "CaptionTokenizer.train(sys.argv[1:] * 2000, 80)\n"
        "sys.stdout.write(str(threads() - before))"
    )
    assert in_another_process(script, *CAPTIONS) == "0"


def test_a_vocabulary_needs_words():
    with pytest.raises(UserError, match="hold no words"):
        CaptionTokenizer.train(["", " "])


def test_training_leaves_the_environment_alone(monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    CaptionTokenizer.train(CAPTIONS)
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    CaptionTokenizer.train(CAPTIONS)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


# ---- keeping ----


def test_a_tokenizer_survives_pickle_json_and_a_folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    copies = [
        pickle.loads(pickle.dumps(tokenizer)),
        CaptionTokenizer.from_json(tokenizer.to_json()),
        CaptionTokenizer.from_pretrained(tmp_path / "tokenizer"),
    ]
    for copy in copies:
        assert copy.encode("a red [MASK] backpack", 7) == tokenizer.encode("a red [MASK] backpack", 7)
        assert copy.special == tokenizer.special
        assert copy.to_json() == tokenizer.to_json()


def test_a_tokenizer_works_in_a_spawned_process(tokenizer):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(tokenizer.encode, "a red coat", 75).result().ids == [2, 5, 6, 8, 3]


def test_a_folder_with_only_a_vocabulary_is_enough(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n")
    assert CaptionTokenizer.from_pretrained(tmp_path).encode("A backpack", None).ids == [2, 5, 9, 10, 3]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_text_that_is_no_tokenizer_is_refused(text):
    with pytest.raises(UserError, match="not the JSON of a tokenizer"):
        CaptionTokenizer.from_json(text)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer.json and no vocab.txt"),
        ({"tokenizer.json": "{rubbish"}, "cannot be read"),
        ({"vocab.txt": "a\n"}, r"has no \[PAD\]"),
        ({"tokenizer.json": word_pieces(SPECIAL, lowercase=False).to_str()}, "keeps upper case"),
        ({"tokenizer.json": Tokenizer(models.BPE()).to_str()}, "is BPE, not word-piece"),
    ],
)
def test_a_folder_that_is_no_bert_tokenizer_is_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        CaptionTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named():
    with pytest.raises(UserError, match="/no/such/folder is neither a folder here nor"):
        CaptionTokenizer.from_pretrained("/no/such/folder")


# ---- padding ----


def test_rows_are_padded_to_the_longest():
    ids, mask = pad_batch([[2, 5, 3], [2, 3]], pad_id=0)
    assert ids.tolist() == [[2, 5, 3], [2, 3, 0]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]
    assert ids.dtype == torch.int64


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_many_captions_are_cut_as_each_of_them(monkeypatch, count):
    monkeypatch.setattr("dataset.tokens.AT_ONCE", 2)
    tokenizer = CaptionTokenizer.train(CAPTIONS, 60, 1)
    captions = [" ".join(caption.split()[: number + 1]) for number in range(count) for caption in CAPTIONS]
    before = os.environ.get("TOKENIZERS_PARALLELISM"), threading.active_count()
    for most in (None, 4):
        assert list(tokenizer.encode_all(captions, most)) == [tokenizer.encode(caption, most) for caption in captions]
    assert (os.environ.get("TOKENIZERS_PARALLELISM"), threading.active_count()) == before


def test_rows_are_padded_to_a_length():
    ids, mask = pad_batch([[2, 9, 3]], pad_id=7, length=5)
    assert ids.tolist() == [[2, 9, 3, 7, 7]]
    assert mask.sum() == 3
    with pytest.raises(ValueError, match="a row of 3 ids does not fit into 2"):
        pad_batch([[2, 9, 3]], pad_id=0, length=2)
    assert pad_batch([], pad_id=0)[0].shape == (0, 0)


# ---- what a vocabulary does not know ----


@pytest.mark.parametrize(
    ("caption", "unknown"),
    [
        ("a red coat", []),
        ("a \u7ea2\u8272 coat \u5916", ["\u7ea2\u8272", "\u5916"]),
        ("\u043f\u0430\u043b\u044c\u0442\u043e red", ["\u043f\u0430\u043b\u044c\u0442\u043e"]),
        ("coat\u7ea2coat & a", ["\u7ea2", "&"]),
        ("", []),
    ],
)
def test_unknown_words_are_named(caption, unknown):
    tokenizer = CaptionTokenizer.train(["a red coat"] * 2, 100)
    assert [caption[start:end] for start, end in tokenizer.unknown_spans(tokenizer.encode(caption, None))] == unknown


def test_a_warning_tells_the_share_of_unknown_pieces_and_the_commonest(caplog):
    tokenizer = CaptionTokenizer.train(["a red coat"] * 2, 100)
    some, many = ["a red coat"] * 33 + ["a red \u5916"], ["a red coat", "a \u5916 \u5957", "a red \u5916"]
    for captions in (some, many):
        counter = UnknownWords(tokenizer)
        for caption in captions:
            counter.add(caption, tokenizer.encode(caption, None))
        counter.warn("test split")
    (record,) = caplog.records  # 1 of 102 pieces is not worth a word; 3 of 9 are
    assert (
        record.message.startswith("test split: 33.3 % of the word pieces")
        and "\u5916 (2), \u5957 (1);" in record.message
    )
