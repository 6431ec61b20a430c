"""What a loader hands to a model: the one place where `dataset/` and `models/` meet.

Letters: B batch, H and W image height and width, T text tokens, C attributes of a caption.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

BUCKET = 8  # tokens of captions, and attributes of one, are padded to multiples of it where shapes should be few


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

    longest: tokens of the longest caption, a scalar, where padding goes beyond it (`padded_to`).
    """

    ids: Tensor
    mask: Tensor
    longest: Tensor | None = None

    def to(self, device: torch.device) -> "TextTokens":
        longest = None if self.longest is None else self.longest.to(device, non_blocking=True)
        return TextTokens(self.ids.to(device, non_blocking=True), self.mask.to(device, non_blocking=True), longest)

    def pin_memory(self) -> "TextTokens":
        longest = None if self.longest is None else self.longest.pin_memory()
        return TextTokens(self.ids.pin_memory(), self.mask.pin_memory(), longest)

    def padded_to(self, length: int, pad: int) -> "TextTokens":
        """The same captions with more padding; `pad` is its token."""
        more = length - self.ids.shape[1]
        return TextTokens(
            torch.nn.functional.pad(self.ids, (0, more), value=pad),
            torch.nn.functional.pad(self.mask, (0, more)),
            torch.tensor(self.ids.shape[1]),
        )


@dataclass(frozen=True)
class TrainBatch:
    """B training samples.

    image1, image2: two flips of one image [B, 3, H, W], uint8, or float32 when normalised.
    caption: feeds MLM and m-RTD. caption2: feeds all else; at times another caption of the
    same identity, and then `replaced` [B] is 1.
    attributes: [B, T] int64 over the tokens of caption2: 0 none, 1.. = attribute number.
    attribute_count: the most attributes that any caption of the batch has.
    identity: [B] int64, numbered from 0.
    index: [B] int64, index of the sample in the data set.
    """

    image1: Tensor
    image2: Tensor
    caption: TextTokens
    caption2: TextTokens
    attributes: Tensor
    attribute_count: int
    identity: Tensor
    replaced: Tensor
    index: Tensor

    @property
    def size(self) -> int:
        return self.identity.shape[0]

    def with_few_shapes(self, pad: int, most: int) -> "TrainBatch":
        """The same samples, padded so that batches have few shapes, for what is prepared anew for each shape.

        Captions of up to `most` tokens get a common length, a multiple of BUCKET; `pad` is the token of padding. The
        losses of a batch do not change by it.
        """
        length = max(self.caption.ids.shape[1], self.caption2.ids.shape[1])
        length = max(length, min(-(-length // BUCKET) * BUCKET, most))
        more = length - self.attributes.shape[1]
        return replace(
            self,
            caption=self.caption.padded_to(length, pad),
            caption2=self.caption2.padded_to(length, pad),
            attributes=torch.nn.functional.pad(self.attributes, (0, more)),
            attribute_count=max(1, -(-self.attribute_count // BUCKET)) * BUCKET,
        )

    def pin_memory(self) -> "TrainBatch":
        """Called by a DataLoader that pins memory."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "attribute_count"}
        return replace(self, **{name: part.pin_memory() for name, part in parts.items()})

    def to(self, device: torch.device) -> "TrainBatch":
        """The same on `device`; images stay uint8, and the model normalises them."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "attribute_count"}
        moved: dict[str, Any] = {
            name: part.to(device, non_blocking=True) if isinstance(part, Tensor) else part.to(device)
            for name, part in parts.items()
        }
        return replace(self, **moved)
