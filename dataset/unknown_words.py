"""Counts what a vocabulary does not know of captions: a model reads all of that as the same [UNK]."""

import logging
from collections import Counter

from dataset.tokens import Encoded, TextTokenizer

WORTH_A_WARNING = 0.03  # of the word pieces; published captions in bert-base-uncased are far below
SHOWN = 8

logger = logging.getLogger(__name__)


class UnknownWords:
    """Word pieces of captions, how many of them are unknown, and the words that are."""

    def __init__(self, tokenizer: TextTokenizer):
        self.tokenizer = tokenizer
        self.pieces, self.unknown, self.words = 0, 0, Counter[str]()

    def add(self, caption: str, encoded: Encoded) -> None:
        """Count a cleaned caption as the tokenizer has read it."""
        self.pieces += len(encoded.ids) - 2  # [CLS] and [SEP] aside
        unknown = encoded.ids.count(self.tokenizer.unknown)
        if unknown:
            self.unknown += unknown
            self.words.update(caption[start:end] for start, end in self.tokenizer.unknown_spans(encoded))

    def warn(self, whose: str) -> None:
        """Log a warning when more than a few per cent are unknown; whose: the captions, for the message."""
        if self.unknown <= WORTH_A_WARNING * self.pieces:
            return
        common = ", ".join(f"{word} ({count})" for word, count in self.words.most_common(SHOWN))
        logger.warning(
            "%s: %.1f %% of the word pieces are not in the vocabulary and are all read as the same [UNK], most often"
            " %s; use a text_encoder, or a checkpoint, whose vocabulary has the words of these captions",
            whose,
            100 * self.unknown / self.pieces,
            common,
        )
