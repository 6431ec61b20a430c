"""What a loader hands to a model: the one place where `dataset/` and `models/` meet.

Batches of MARS are a `TrainBatch`, those of the systems on CLIP a `PairBatch`. A loader hands over what either is made
of on its device, a `LoadedBatch` or `LoadedPairs`.

Letters: B batch, H and W image height and width, T text tokens, C attributes of a caption.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from utils.processes.handover import map_leaves

Batch = TypeVar("Batch", bound="Samples")
Pairs = TypeVar("Pairs", bound="PairBatch")
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green and blue from 0 to 1, in the images of CLIP and ALBEF
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)  # and their standard deviation
BUCKET = 8  # tokens of captions, and attributes of one, are padded to multiples of it where shapes should be few
MEAN_BUCKET = 4  # and so are the words of captions in the mean, where they are computed without padding


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of the tokens that are no words."""

    pad: int
    cls: int
    sep: int
    mask: int


@dataclass(frozen=True)
class TextTokens:
    """Padded captions. ids [B, T] int64; mask [B, T] True = word (CLS and SEP included).

    longest: tokens of the longest caption, a scalar, where padding goes beyond it (`padded_to`). words: how many are
    True, and there somewhat more, in main memory: by it captions are computed without padding; None = not counted.
    """

    ids: Tensor
    mask: Tensor
    longest: Tensor | None = None
    words: int | None = None

    def to(self, device: torch.device) -> "TextTokens":
        return map_leaves(self, lambda part: part.to(device, non_blocking=True))

    def padded_to(self, length: int, pad: int, words: int | None = None) -> "TextTokens":
        """The same captions with more padding, whose token is `pad`, and so many words counted."""
        more = length - self.ids.shape[1]
        return TextTokens(
            torch.nn.functional.pad(self.ids, (0, more), value=pad),
            torch.nn.functional.pad(self.mask, (0, more)),
            torch.full((), self.ids.shape[1], device=self.ids.device),
            words,
        )


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What B training samples hold beside their images.

    caption: feeds MLM and m-RTD. caption2: feeds all else; at times another caption of the
    same identity, and then `replaced` [B] is 1.
    attributes: [B, T] int64 over the tokens of caption2: 0 none, 1.. = attribute number.
    attribute_count: the most attributes that any caption of the batch has.
    identity: [B] int64, numbered from 0.
    index: [B] int64, index of the sample in the data set.
    noise: random numbers that a step on these samples uses, in main memory wherever the rest is; None = not drawn.
    """

    caption: TextTokens
    caption2: TextTokens
    attributes: Tensor
    attribute_count: int
    identity: Tensor
    replaced: Tensor
    index: Tensor
    noise: Any = None

    @property
    def size(self) -> int:
        return self.identity.shape[0]

    def with_few_shapes(self: Batch, pad: int, most: int) -> Batch:
        """The same samples, padded so that batches have few shapes, for what is prepared anew for each shape.

        Captions of up to `most` tokens get a common length, a multiple of BUCKET; `pad` is the token of padding. Of
        both captions as many words are counted, a multiple of MEAN_BUCKET in the mean. The losses of a batch do not
        change by it.
        """
        length = max(self.caption.ids.shape[1], self.caption2.ids.shape[1])
        length = max(length, min(-(-length // BUCKET) * BUCKET, most))
        more = length - self.attributes.shape[1]
        words = None
        if self.caption.words is not None and self.caption2.words is not None:
            step = MEAN_BUCKET * self.size
            words = min(-(-max(self.caption.words, self.caption2.words) // step) * step, self.size * length)
        return replace(
            self,
            caption=self.caption.padded_to(length, pad, words),
            caption2=self.caption2.padded_to(length, pad, words),
            attributes=torch.nn.functional.pad(self.attributes, (0, more)),
            attribute_count=max(1, -(-self.attribute_count // BUCKET)) * BUCKET,
        )

    def pin_memory(self: Batch) -> Batch:
        """Called by a DataLoader that pins memory."""
        return map_leaves(self, Tensor.pin_memory)

    def move(self: Batch, device: torch.device) -> Batch:
        """All but the noise on `device`, as it is."""
        there = map_leaves(replace(self, noise=None), lambda part: part.to(device, non_blocking=True))
        return replace(there, noise=self.noise)


@dataclass(frozen=True, kw_only=True)
class TrainBatch(Samples):
    """B training samples as a model takes them.

    image1, image2: two views of one image [B, 3, H, W], uint8, or float32 when normalised.
    """

    image1: Tensor
    image2: Tensor

    def to(self, device: torch.device) -> "TrainBatch":
        """The same on `device`; images stay uint8, and the model normalises them."""
        return self.move(device)


@dataclass(frozen=True, kw_only=True)
class LoadedBatch(Samples):
    """B training samples as a loader hands them over: where views are flips of one image, that goes once.

    views: uint8 images [1, B, 3, H, W] of which both views are made, or one for each [2, B, 3, H, W].
    mirrored: [B, 2] bool, which of the two views of an image are to be mirrored.
    """

    views: Tensor
    mirrored: Tensor

    def to(self, device: torch.device) -> TrainBatch:
        """The batch on `device`, where its images are mirrored."""
        there = self.move(device)
        first, second = there.mirrored.unbind(1)
        kept = {part.name: getattr(there, part.name) for part in fields(Samples)}
        return TrainBatch(**kept, image1=mirror(there.views[0], first), image2=mirror(there.views[-1], second))


@dataclass(frozen=True)
class MaskedCaptions:
    """Captions with masked words. ids, labels [B, T]: what is read; what was there, 0 where nothing was masked.

    most: how many words are masked, and at times somewhat more, in main memory; None = not counted.
    """

    ids: Tensor
    labels: Tensor
    most: int | None = None


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """B pairs of an image and a caption, as IRRA and RDE take them.

    image: [B, 3, H, W], uint8, or float32 when normalised. ids: [B, T] int64, padded at their end.
    identity: [B] int64, numbered from 0. index: [B] int64, index of the sample in the data set.
    masked: the captions once more, for MLM; None = without. clean: [B], 1 = the caption fits its image, 0 = it does
    not; None = all do.
    """

    image: Tensor
    ids: Tensor
    identity: Tensor
    index: Tensor
    masked: MaskedCaptions | None = None
    clean: Tensor | None = None

    @property
    def size(self) -> int:
        return self.identity.shape[0]

    def to(self, device: torch.device) -> "PairBatch":
        """The same on `device`; images stay uint8, and the model normalises them."""
        return map_leaves(self, lambda part: part.to(device, non_blocking=True))

    def pin_memory(self: Pairs) -> Pairs:
        """Called by a DataLoader that pins memory."""
        return map_leaves(self, Tensor.pin_memory)


@dataclass(frozen=True, kw_only=True)
class LoadedPairs(PairBatch):
    """B pairs as a loader hands them over. mirrored: [B] bool, which images are to be mirrored, on the device."""

    mirrored: Tensor

    def to(self, device: torch.device) -> PairBatch:
        """The pairs on `device`, where their images are mirrored."""
        there = map_leaves(self, lambda part: part.to(device, non_blocking=True))
        kept = {part.name: getattr(there, part.name) for part in fields(PairBatch)}
        return PairBatch(**{**kept, "image": mirror(there.image, there.mirrored)})


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Images [B, 3, H, W], those as mirror images where `mirrored` [B] is True."""
    if images.device.type == "cpu":  # where memory that is new takes longer than what is done in it
        return torch.stack(
            [image.flip(-1) if turned else image for image, turned in zip(images, mirrored, strict=True)]
        )
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
