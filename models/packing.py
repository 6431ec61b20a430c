"""Texts and the images that they attend to, in one row without padding.

Letters: S words of all texts together, R texts, B images, N image tokens, A heads, d width of a head.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.kernels import Segments, attend_segments
from utils.device import upload


class Attends(Protocol):
    """How packed queries [S, A, d] attend, with dropout of attention."""

    def to_text(self, query: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        """To the words of their text, of all keys and values [S, A, d]: as many as queries."""

    def to_images(self, query: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        """To the tokens of its image, of keys and values [B, A, N, d]: as many as queries."""


@dataclass(frozen=True)
class SegmentAttends:
    """By one kernel: the queries of a text, and those of all texts of an image, lie side by side."""

    text: Segments
    image: Segments | None = None  # None = there are no images

    def to_text(self, query: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        return attend_segments(query, keys, values, self.text, dropout)

    def to_images(self, query: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        assert self.image is not None, "texts packed without images are fused with some"
        keys, values = (part.transpose(1, 2).flatten(0, 1) for part in (keys, values))  # [B * N, A, d]
        return attend_segments(query, keys, values, self.image, dropout)


@dataclass(frozen=True)
class Packing:
    """R texts, word after word in states [S, D] without padding.

    first [R]: row of each text's first word, CLS. words: how all words attend; cls: how the first words do, where they
    alone are asked for. positions [S]: of each word in its text, where states are made of words.
    """

    first: Tensor
    words: Attends
    cls: Attends | None = None
    positions: Tensor | None = None

    @classmethod
    def from_lengths(cls, lengths: np.ndarray, texts: np.ndarray, tokens: int, device: torch.device) -> "Packing":
        """Texts of these lengths [R], of which each of B images has so many [B], in order; images have `tokens` tokens.

        Every text has a word, and every image a text. What a device needs to know goes there in one copy, for which
        nothing waits.
        """
        ones, of_images = np.ones_like(lengths), np.full(len(texts), tokens)
        words = np.add.reduceat(lengths, starts_of(texts)[:-1])  # of each image
        parts = (lengths, words, of_images, ones, texts)
        by_text, by_image, images, first, cls_by_image = upload([starts_of(part) for part in parts], device)
        of = Segments.of_lengths
        return cls(
            by_text[:-1],
            SegmentAttends(of(lengths, lengths, by_text, by_text), of(words, of_images, by_image, images)),
            SegmentAttends(of(ones, lengths, first, by_text), of(texts, of_images, cls_by_image, images)),
        )


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where parts of these lengths begin, and where the last one ends: [parts + 1] int32."""
    return np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
