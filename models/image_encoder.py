"""What every image encoder is to the rest of the model: images in, tokens out, CLS first.

Letters: B batch, L patches, N image tokens (1 + L), K kept patches, D width, P patch.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn


@dataclass(frozen=True)
class VisionSize:
    """Sizes of an image encoder; `image_size` is (height, width) in pixels.

    heads: of attention, states: of a channel in a scan, where there is any. drop_path: how often the last layer's
    residual branch is left out in training; earlier ones less often.
    """

    image_size: tuple[int, int] = (384, 384)
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    drop_path: float = 0.0
    states: int = 16

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along height and width."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class PatchSubset:
    """The patches an image keeps when part of it is removed.

    kept [B, K]: positions of the kept patches, in image order.
    removed [B, L]: True = removed.
    """

    kept: Tensor
    removed: Tensor

    @classmethod
    def from_noise(cls, noise: Tensor, mask_ratio: float) -> "PatchSubset":
        """Keep the int(L * (1 - mask_ratio)) patches of smallest noise [B, L] in each image.

        The order of the kept patches is that of the image: attention does not care, and an
        encoder that scans its tokens does.
        """
        count = int(noise.shape[1] * (1 - mask_ratio))
        kept = noise.argsort(dim=1)[:, :count].sort(dim=1).values
        removed = torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, False)
        return cls(kept, removed)


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of every sample of `tokens` [B, L, D]: [B, K, D]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def insert_row(rows: Tensor, row: Tensor, place: int) -> Tensor:
    """rows [..., L, D] with row [..., 1, D] at `place`: [..., L + 1, D]."""
    return torch.cat([rows[..., :place, :], row, rows[..., place:, :]], dim=-2)


def split_row(rows: Tensor, place: int) -> tuple[Tensor, Tensor]:
    """Inverse of `insert_row`: (rows [..., L, D], row [..., 1, D])."""
    if place == 0:
        return rows[..., 1:, :], rows[..., :1, :]
    return torch.cat([rows[..., :place, :], rows[..., place + 1 :, :]], dim=-2), rows[..., place : place + 1, :]


def drop_rates(last: float, depth: int) -> list[float]:
    """How often the branch of each of `depth` layers is left out: from never to `last`, evenly."""
    return [last * number / max(1, depth - 1) for number in range(depth)]


class ImageEncoder(ABC, nn.Module):
    """Patches and a CLS token with positions; what follows is each encoder's own.

    undecayed: names of parameters, or of their last part, that weight decay leaves alone.
    """

    undecayed: tuple[str, ...] = ()

    def __init__(self, size: VisionSize, gradient_checkpointing: bool = False):
        super().__init__()
        self.size, self.gradient_checkpointing = size, gradient_checkpointing
        self.patch_embed = PatchEmbed(size.image_size, size.patch_size, 3, size.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + size.patches, size.width))

    @staticmethod
    @abstractmethod
    def cls_index(patches: int) -> int:
        """Where CLS stands in a row with so many patches, and its position among as many."""

    @abstractmethod
    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens with positions [B, N, D], CLS at its place -> [B, N, D]."""

    @abstractmethod
    def compiled_parts(self) -> list[nn.Module]:
        """The modules that torch.compile writes kernels for."""

    def forward(self, image: Tensor, keep: PatchSubset | None = None) -> Tensor:
        """Encode images [B, 3, H, W] (normalised) as tokens [B, 1 + L, D], CLS first.

        With `keep`, removed patches are never encoded: [B, 1 + K, D].
        """
        tokens = self.encode(self.embed_patches(image, keep))
        place = self.cls_index(tokens.shape[1] - 1)
        if place == 0:
            return tokens
        patches, cls = split_row(tokens, place)
        return torch.cat([cls, patches], dim=1)

    def embed_patches(self, image: Tensor, keep: PatchSubset | None = None) -> Tensor:
        """Patches and CLS with their positions, CLS at its place: what `encode` takes."""
        positions, of_cls = split_row(self.pos_embed, self.cls_index(self.size.patches))
        tokens = self.patch_embed(image) + positions
        if keep is not None:
            tokens = take_tokens(tokens, keep.kept)
        cls = (self.cls_token + of_cls).expand(tokens.shape[0], -1, -1)
        return insert_row(tokens, cls, self.cls_index(tokens.shape[1]))
