"""Texts and the images that they attend to, in one row without padding.

Letters: S words of all texts together, R texts, B images, N image tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.kernels import Segments
from utils.device import upload


@dataclass(frozen=True)
class Attends:
    """What queries attend to: the words of their text, and the tokens of its image."""

    text: Segments
    image: Segments


@dataclass(frozen=True)
class Packing:
    """R texts, word after word in states [S, D] without padding; those that attend to the same image are side by side.

    first [R]: row of each text's first word, CLS. words: what all words attend to; cls: what the first words do.
    """

    first: Tensor
    words: Attends
    cls: Attends

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
        return cls(
            by_text[:-1],
            Attends(Segments(lengths, lengths, by_text, by_text), Segments(words, of_images, by_image, images)),
            Attends(Segments(ones, lengths, first, by_text), Segments(texts, of_images, cls_by_image, images)),
        )


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where parts of these lengths begin, and where the last one ends: [parts + 1] int32."""
    return np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
