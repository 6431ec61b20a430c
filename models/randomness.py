"""Every random draw of a training step, in one place.

Letters: B batch, T text tokens, L patches, V vocabulary.

A step's randomness is a handful of uniform numbers per sample (`StepNoise`), made on the CPU
from (seed, epoch, index of the sample in the data set): neither the number of processes nor
the batch changes them. `RandomDraws` turns them into negatives, masked and sampled tokens
and removed patches. Tests pass their own object with the same four methods.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, softmax

from dataset.batch import SpecialTokens, TextTokens
from models.losses import IGNORED
from models.packed_text import PackedText

BLOCK = 128  # weights that `pick` sums at a time


@dataclass(frozen=True)
class StepNoise:
    """Uniform numbers in [0, 1).

    negatives [B, 2]: for the negative image of each text, the negative text of each image.
    mlm, mrtd [B, T, 3]: is a token masked, how, by which word.
    sampled [B, T]: which word the momentum model's distribution yields.
    patches [B, L]: which patches are removed.
    """

    negatives: Tensor
    mlm: Tensor
    mrtd: Tensor
    sampled: Tensor
    patches: Tensor

    @classmethod
    def draw(cls, seed: int, epoch: int, samples: Sequence[int], tokens: int, patches: int) -> "StepNoise":
        """Noise for the samples with these indices in the data set.

        `tokens` is the greatest caption length of the run, not of the batch: a sample's
        numbers depend on (seed, epoch, index) and on nothing else.
        """
        words = {"mlm": (tokens, 3), "mrtd": (tokens, 3), "sampled": (tokens,)}
        shapes = {"negatives": (2,), **words, "patches": (patches,)}
        sizes = [math.prod(shape) for shape in shapes.values()]
        rows = [np.random.default_rng((seed, epoch, sample)).random(sum(sizes), np.float32) for sample in samples]
        parts = torch.from_numpy(np.stack(rows)).split(sizes, dim=1)
        return cls(**{name: part.reshape(-1, *shapes[name]) for name, part in zip(shapes, parts, strict=True)})

    def most_masked(self, purpose: str, length: int, probability: float) -> int:
        """No more words of captions [B, length] are masked for `purpose`; a half, a quarter or an eighth of them all.

        So steps differ in few shapes. Noise must be in main memory.
        """
        chances = getattr(self, purpose)[:, :length, 0]
        count, words = int((chances < probability).sum()), chances.numel()
        return next(-(-words // part) for part in (8, 4, 2, 1) if count <= words / part)

    def to(self, device: torch.device) -> "StepNoise":
        parts = (getattr(self, f.name) for f in fields(self))
        if device.type == "cuda":  # from pinned memory, or the copy waits for the device
            parts = (part.pin_memory() for part in parts)
        return StepNoise(*(part.to(device, non_blocking=True) for part in parts))


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Index drawn in proportion to `weights` [..., V] by one uniform number [...]: inverse CDF.

    First the block that it lies in, then its place there: sums of blocks are few. In float64, so that rounding of a
    long sum does not decide which word it is.
    """
    blocks = pad(weights, (0, -weights.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1, dtype=torch.float64)
    ends = sums.cumsum(-1)
    target = (uniform * ends[..., -1] * (1 - 1e-6)).unsqueeze(-1)
    block = torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[-1] - 1)
    before = ends.gather(-1, block) - sums.gather(-1, block)
    inside = blocks.gather(-2, block.unsqueeze(-1).expand(*block.shape, BLOCK)).squeeze(-2)
    cumulative = inside.cumsum(-1, dtype=torch.float64)
    # rounding must pass neither the first nor the last positive weight of the block
    target = (target - before).clamp(min=0).minimum(cumulative[..., -1:] * (1 - 1e-12))
    index = block * BLOCK + torch.searchsorted(cumulative, target, right=True)
    return index.squeeze(-1).clamp(max=weights.shape[-1] - 1)


@dataclass(frozen=True)
class MaskedTokens:
    """Captions with masked words. ids, labels [B, T]: what is read; what was there, IGNORED where nothing was masked.

    at_most: no more words than that are masked.
    """

    ids: Tensor
    labels: Tensor
    at_most: int


@dataclass(frozen=True)
class RandomDraws:
    """The draws of one step from its noise.

    most_masked: by purpose, more words than that are not masked; without it, all may be. A shape must be known
    without a look at the device, which would wait for it. some_hidden: the data may have hidden words themselves.
    """

    noise: StepNoise
    special: SpecialTokens
    vocabulary_size: int
    most_masked: Mapping[str, int] = field(default_factory=dict)
    some_hidden: bool = False

    def to(self, device: torch.device) -> "RandomDraws":
        return replace(self, noise=self.noise.to(device))

    def hard_negatives(self, image_weights: Tensor, text_weights: Tensor) -> tuple[Tensor, Tensor]:
        """A negative image for each text and a negative text for each image: two of [B].

        image_weights: rows are texts, columns images; text_weights: rows are images, columns
        texts; 0 where a pair must not be drawn. A row of zeros yields an arbitrary index.
        """
        image_uniform, text_uniform = self.noise.negatives.unbind(1)
        return pick(image_weights, image_uniform), pick(text_weights, text_uniform)

    def masked_tokens(self, text: TextTokens, purpose: str, probability: float) -> MaskedTokens:
        """Mask words for `purpose` "mlm" or "mrtd".

        Never [CLS], never padding, nor what the data's own noise has hidden; 80% become [MASK], 10% a random word, 10%
        stay.
        """
        length = text.ids.shape[1]
        chance, kind, word = getattr(self.noise, purpose)[:, :length].unbind(2)
        masked = (chance < probability) & text.mask & (text.ids != self.special.cls)
        if self.some_hidden:
            masked &= text.ids != self.special.mask
        labels = text.ids.masked_fill(~masked, IGNORED)
        ids = text.ids.masked_fill(masked & (kind < 0.8), self.special.mask)
        ids = torch.where(masked & (kind >= 0.9), (word * self.vocabulary_size).long(), ids)
        return MaskedTokens(ids, labels, self.most_masked.get(purpose, ids.numel()))

    def sampled_tokens(self, logits: Tensor, packed: PackedText | None = None) -> Tensor:
        """One word per position from the momentum model's distribution: logits [B, T, V], packed [S, V] -> [B, T]."""
        chances = softmax(logits.float(), dim=-1)
        if packed is None:
            return pick(chances, self.noise.sampled[:, : logits.shape[1]])
        return packed.spans.unpack(pick(chances, packed.pack(self.noise.sampled[:, : packed.spans.longest])))

    def patch_noise(self) -> Tensor:
        """[B, L]: the patches of greatest noise are removed."""
        return self.noise.patches
