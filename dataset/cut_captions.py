"""Counts captions that are longer than a model reads: the rest of them is cut off."""

import logging

from dataset.tokens import TextTokenizer
from utils.text import agreeing, counted

logger = logging.getLogger(__name__)


class CutCaptions:
    """How many of some captions lose their ends, and how many words the longest has.

    max_words, max_tokens: of a cleaned caption, what is read.
    """

    def __init__(self, tokenizer: TextTokenizer, max_words: int, max_tokens: int):
        self.tokenizer, self.max_words, self.max_tokens = tokenizer, max_words, max_tokens
        self.captions, self.cut, self.longest = 0, 0, 0

    def add(self, caption: str) -> None:
        """Count a caption as it is written."""
        cleaned = self.tokenizer.clean(caption, None)
        words = cleaned.count(" ") + 1
        self.captions += 1
        self.cut += self.tokenizer.count_read(cleaned, self.max_words, self.max_tokens) < words
        self.longest = max(self.longest, words)

    def warn(self, whose: str) -> None:
        """Log a warning when some are cut; whose: the captions, for the message."""
        if self.cut:
            logger.warning(
                "%s: %d of %s %s longer than the model reads (max_words %d%s), and the rest is cut off; the"
                " longest has %s",
                whose,
                self.cut,
                counted(self.captions, "caption"),
                agreeing(self.cut, "is", "are"),
                self.max_words,
                ", also of word pieces" if self.max_tokens == self.max_words else "",
                counted(self.longest, "word"),
            )
