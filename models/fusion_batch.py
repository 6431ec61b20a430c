"""Stacks the multi-modal passes of a training step into one.

Letters: B batch, R rows, T text tokens, D width.

Positives, negative texts, masked words and replaced words attend to the same B images; only
the texts with a negative image attend to another. Stacked as rows, they share one
projection of the images and one run through the layers.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.fusion import ImageKeysValues, Pairing, TextEncoder


@dataclass
class FusionRows:
    """Blocks of B texts by name; `crossed_images` belongs to the block named `crossed`."""

    blocks: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # text_prefix, mask
    crossed: str | None = None
    crossed_images: Tensor | None = None

    def add(self, name: str, text_prefix: Tensor, mask: Tensor) -> None:
        """Texts [B, T, D], mask [B, T] True = word, text i with image i."""
        self.blocks[name] = text_prefix, mask

    def add_crossed(self, name: str, text_prefix: Tensor, mask: Tensor, images: Tensor) -> None:
        """Texts that attend to other images: text i to image `images[i]`."""
        self.add(name, text_prefix, mask)
        self.crossed, self.crossed_images = name, images

    def fuse(self, encoder: TextEncoder, images: ImageKeysValues) -> dict[str, Tensor]:
        """Multi-modal states by name, each [B, T of that block, D]."""
        order = sorted(self.blocks, key=lambda name: name == self.crossed)
        length = max(mask.shape[1] for _, mask in self.blocks.values())
        text_prefix = torch.cat([pad(self.blocks[n][0], (0, 0, 0, length - self.blocks[n][0].shape[1])) for n in order])
        mask = torch.cat([pad(self.blocks[n][1], (0, length - self.blocks[n][1].shape[1])) for n in order])
        pairing = Pairing(len(order) - (self.crossed is not None), self.crossed_images)
        states = encoder.fuse(text_prefix, mask, images, pairing).chunk(len(order))
        return {n: part[:, : self.blocks[n][1].shape[1]] for n, part in zip(order, states, strict=True)}
