"""Words of a caption that are masked, replaced or removed, as IRRA and RDE do it, and the random numbers for that.

Letters: B batch, T ids of a row, K ids of it that are kept.

The functions are pure: `WordNoise` draws their random numbers, for each sample by (seed, epoch, index of the sample
in the data set), so that neither the number of processes nor the batch changes them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dataset.batch import BUCKET, MaskedCaptions

NO_LABEL = 0  # where nothing was masked, see `MaskedCaptions`
MASKED = 0.15  # of all words, for masked language modelling (IRRA)
AUGMENTED = 0.2  # of all words, where captions are augmented (RDE)
Purpose = Literal["mlm", "augmentation"]
STREAMS: dict[Purpose, int] = {"mlm": 1, "augmentation": 2}  # one caption may be augmented and masked


@dataclass(frozen=True)
class WordIds:
    """Which ids of a vocabulary are words: all below `size` but the special ones, in ascending order.

    mask: the special one that stands for a hidden word. Special ids are never changed, nor put in for a word.
    """

    size: int
    special: tuple[int, ...]
    mask: int

    @classmethod
    def of(cls, size: int, special: Iterable[int], mask: int) -> "WordIds":
        return cls(size, tuple(sorted(set(special))), mask)

    def among(self, ids: np.ndarray) -> np.ndarray:
        """Which ids are words, True, of any shape."""
        return ~np.isin(ids, self.special)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """So many words by chance, int64, all equally likely."""
        drawn = rng.integers(0, self.size - len(self.special), count)
        for special in self.special:
            drawn += drawn >= special
        return drawn


@dataclass(frozen=True)
class WordNoise:
    """Random numbers for every position. uniform [B, T] float64 in [0, 1); words [B, T] int64, any word."""

    uniform: Tensor
    words: Tensor

    @classmethod
    def draw(
        cls, purpose: Purpose, seed: int, epoch: int, samples: Sequence[int], length: int, ids: WordIds
    ) -> "WordNoise":
        """Noise for the samples with these indices in the data set; `length` is that of all rows of the run."""
        uniform = np.empty((len(samples), length), np.float64)
        words = np.empty((len(samples), length), np.int64)
        for row, sample in enumerate(samples):
            rng = np.random.default_rng((seed, epoch, sample, STREAMS[purpose]))
            uniform[row] = rng.random(length)
            words[row] = ids.draw(rng, length)
        return cls(torch.from_numpy(uniform), torch.from_numpy(words))

    def cut(self, length: int) -> "WordNoise":
        """That of the first positions, for rows of `length` ids."""
        return WordNoise(self.uniform[:, :length], self.words[:, :length])


def mask_words(ids: Tensor, noise: WordNoise, words: WordIds, probability: float = MASKED) -> MaskedCaptions:
    """Mask words for masked language modelling (IRRA section 3.2): 80 % become the mask, 10 % another word, 10 % stay.

    ids [B, T]. Where none is taken, the first word becomes the mask; a caption without words has no labels.
    """
    is_word = torch.from_numpy(words.among(ids.numpy()))
    taken = is_word & (noise.uniform < probability)
    first = is_word & (is_word.cumsum(1) == 1) & ~taken.any(1, keepdim=True)
    how = noise.uniform / probability
    hidden = taken & (how < 0.8) | first
    read = ids.masked_fill(hidden, words.mask)
    read = torch.where(taken & (how >= 0.8) & (how < 0.9), noise.words, read)
    labels = ids.masked_fill(~(taken | first), NO_LABEL)
    return MaskedCaptions(read, labels, most=rounded_up(int((labels != NO_LABEL).sum())))


def rounded_up(words: int) -> int:
    """So many words, or somewhat more, that batches may have few shapes."""
    return max(1, -(-words // BUCKET)) * BUCKET


def augment_words(
    ids: np.ndarray, uniform: np.ndarray, drawn: np.ndarray, words: WordIds, probability: float = AUGMENTED
) -> tuple[np.ndarray, np.ndarray]:
    """Change words of a caption [T] (RDE, `txt_aug`): 60 % become the mask, 20 % another word, 20 % are removed.

    uniform, drawn: the row of a `WordNoise`, of T numbers or more. Returns the ids [K] int64 that are left, and which
    tokens of the caption they stand for: [K], ascending.
    """
    uniform, drawn = uniform[: len(ids)], drawn[: len(ids)]
    taken, how = words.among(ids) & (uniform < probability), uniform / probability
    changed = np.where(taken & (how < 0.6), words.mask, ids.astype(np.int64))
    changed = np.where(taken & (how >= 0.6) & (how < 0.8), drawn, changed)
    kept = np.flatnonzero(~(taken & (how >= 0.8)))
    return changed[kept], kept
