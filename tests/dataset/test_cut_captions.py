"""Captions that are longer than a model reads are counted."""

import pytest

from dataset.captions import clean_caption
from dataset.cut_captions import CutCaptions
from dataset.evaluation_split import encode_captions
from dataset.tokens import CaptionTokenizer

TOKENIZER = CaptionTokenizer.train(["a man in a red coat", "한국 women"] * 3)


@pytest.mark.parametrize(
    ("caption", "max_words", "max_tokens", "read"),
    [
        ("a man", 75, 512, 2),
        ("a man in a red coat", 3, 512, 3),
        ("a man in a red coat", 75, 6, 4),  # four pieces beside [CLS] and [SEP]
        ("a man, in a-red/coat", 75, 6, 4),
        ("a manmanman coat", 75, 4, 1),  # the second word is read in part
        ("manmanmanman", 75, 4, 0),
        ("한국 " * 9, 75, 512, 9),
        ("a zzz man", 75, 4, 2),  # an unknown word is a piece
    ],
)
def test_the_words_that_are_read_are_counted(caption, max_words, max_tokens, read):
    assert TOKENIZER.count_read(clean_caption(caption, None), max_words, max_tokens) == read


def test_a_warning_counts_captions_that_are_cut(caplog):
    cut = CutCaptions(TOKENIZER, max_words=3, max_tokens=64)
    for caption in ("a man in a red coat", "a man.", "a red coat", "A man; in a coat"):
        cut.add(caption)
    cut.warn("training captions")
    assert caplog.messages == [
        "training captions: 2 of 4 captions are longer than the model reads (max_words 3), and the rest is cut off; the"
        " longest has 6 words"
    ]


def test_captions_that_fit_are_not_warned_of(caplog):
    cut = CutCaptions(TOKENIZER, max_words=6, max_tokens=8)
    cut.add("a man in a red coat")
    cut.warn("training captions")
    assert not caplog.messages


def test_evaluation_warns_too(caplog):
    encode_captions(["a man in a red coat", "a man"], TOKENIZER, 6, "test split")
    (message,) = caplog.messages
    assert message.startswith(
        "test split: 1 of 2 captions is longer than the model reads (max_words 6, also of word pieces)"
    )
