"""Words of a caption that are masked, replaced or removed, as IRRA and RDE do it, and the random numbers for that.

Letters: B batch, T ids of a row.

The functions are pure: `WordNoise` draws their random numbers, for each sample by (seed, epoch, index of the sample
in the data set), so that neither the number of processes nor the batch changes them. Words are ids from 1 to
mask - 1; start, end, padding and a `!` within a word (id 0) are never changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dataset.batch import MaskedCaptions
from dataset.clip_tokens import ClipSpecialTokens

NO_LABEL = 0  # where nothing was masked, see `MaskedCaptions`
MASKED = 0.15  # of all words, for masked language modelling (IRRA)
AUGMENTED = 0.2  # of all words, where captions are augmented (RDE)
Purpose = Literal["mlm", "augmentation"]
STREAMS: dict[Purpose, int] = {"mlm": 1, "augmentation": 2}  # one caption may be augmented and masked


@dataclass(frozen=True)
class WordNoise:
    """Random numbers for every position. uniform [B, T] float64 in [0, 1); words [B, T] int64, any word."""

    uniform: Tensor
    words: Tensor

    @classmethod
    def draw(
        cls, purpose: Purpose, seed: int, epoch: int, samples: Sequence[int], length: int, special: ClipSpecialTokens
    ) -> "WordNoise":
        """Noise for the samples with these indices in the data set; `length` is that of all rows of the run."""
        uniform = np.empty((len(samples), length), np.float64)
        words = np.empty((len(samples), length), np.int64)
        for row, sample in enumerate(samples):
            rng = np.random.default_rng((seed, epoch, sample, STREAMS[purpose]))
            uniform[row] = rng.random(length)
            words[row] = rng.integers(1, special.mask, length)
        return cls(torch.from_numpy(uniform), torch.from_numpy(words))

    def cut(self, length: int) -> "WordNoise":
        """That of the first positions, for rows of `length` ids."""
        return WordNoise(self.uniform[:, :length], self.words[:, :length])


def mask_words(
    ids: Tensor, noise: WordNoise, special: ClipSpecialTokens, probability: float = MASKED
) -> MaskedCaptions:
    """Mask words for masked language modelling (IRRA section 3.2): 80 % become the mask, 10 % another word, 10 % stay.

    ids [B, T]. Where none is taken, the first word becomes the mask; a caption without words has no labels.
    """
    words = is_word(ids, special)
    taken = words & (noise.uniform < probability)
    first = words & (words.cumsum(1) == 1) & ~taken.any(1, keepdim=True)
    how = noise.uniform / probability
    hidden = taken & (how < 0.8) | first
    read = ids.masked_fill(hidden, special.mask)
    read = torch.where(taken & (how >= 0.8) & (how < 0.9), noise.words, read)
    return MaskedCaptions(read, ids.masked_fill(~(taken | first), NO_LABEL))


def augment_words(ids: Tensor, noise: WordNoise, special: ClipSpecialTokens, probability: float = AUGMENTED) -> Tensor:
    """Change words of captions [B, T] (RDE, `txt_aug`): 60 % become the mask, 20 % another word, 20 % are removed.

    What follows a removed word moves left; padding fills the end.
    """
    taken = is_word(ids, special) & (noise.uniform < probability)
    how = noise.uniform / probability
    changed = ids.masked_fill(taken & (how < 0.6), special.mask)
    changed = torch.where(taken & (how >= 0.6) & (how < 0.8), noise.words, changed)
    removed = taken & (how >= 0.8)
    order = removed.long().argsort(dim=1, stable=True)
    return changed.masked_fill(removed, special.pad).gather(1, order)


def is_word(ids: Tensor, special: ClipSpecialTokens) -> Tensor:
    """Which ids are words, True, of any shape."""
    return (ids > 0) & (ids < special.mask)
