"""Text-guided masked autoencoder decoder (MARS section 3.4).

Letters: B batch, L patches, N image tokens (1 + L), K kept patches, T text tokens, D width,
P patch.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.checkpoint import checkpoint

from models.attention import attend
from models.image_encoder import PatchSubset, take_tokens
from models.linear import Linear, for_products, through
from models.recompute import bytes_of, recomputed


@dataclass(frozen=True)
class DecoderSize:
    depth: int = 4
    heads: int = 8


class DecoderAttention(nn.Module):
    """Attention without biases on query, key and value."""

    def __init__(self, width: int, source_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(source_width, width, bias=False)
        self.to_v = Linear(source_width, width, bias=False)
        self.to_out = nn.ModuleList([Linear(width, width)])

    def forward(self, states: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """states [B, N, D] ask, source [B, T, W] answers; mask [B, 1, 1, T] True = keep."""
        source = for_products(source)
        parts = (self.to_q(states), self.to_k(source), self.to_v(source))
        query, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = attend(query, keys, values, mask)
        return self.to_out[0](seen.transpose(1, 2).flatten(2))


class GatedLinear(nn.Module):
    """The first half of GEGLU: D -> 8D, a value and a gate of 4D each."""

    def __init__(self, width: int):
        super().__init__()
        self.l = Linear(width, 8 * width)


class FeedForward(nn.Module):
    """GEGLU: value * GELU(gate), 4D -> D."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GatedLinear(width), nn.Identity(), Linear(4 * width, width))

    @property
    def first(self) -> Linear:
        """What makes values and gates."""
        return cast(GatedLinear, self.net[0]).l

    def forward(self, states: Tensor, norm: nn.LayerNorm) -> Tensor:
        """[B, N, D], to be normed -> [B, N, D]."""
        both = through(norm, self.first, states)
        return recomputed(self.gate, both, kept=bytes_of(*both.shape, like=both))

    def gate(self, both: Tensor) -> Tensor:
        value, gate = both.chunk(2, dim=-1)
        return self.net[2](value * gelu(gate))


class DecoderBlock(nn.Module):
    """Pre-norm: self-attention, attention to the caption, feed-forward."""

    def __init__(self, width: int, text_width: int, heads: int):
        super().__init__()
        self.attn1 = DecoderAttention(width, width, heads)
        self.attn2 = DecoderAttention(width, text_width, heads)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, states: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        normed = for_products(self.norm1(states))
        states = states + self.attn1(normed, normed)
        states = states + self.attn2(self.norm2(states), text, text_mask)
        return states + self.ff(states, self.norm3)


class VisualDecoder(nn.Module):
    """The blocks alone; mask token, positions and pixel head belong to the model, as released."""

    def __init__(self, size: DecoderSize, width: int, text_width: int, gradient_checkpointing: bool = False):
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.blocks = nn.ModuleList(DecoderBlock(width, text_width, size.heads) for _ in range(size.depth))

    def forward(self, tokens: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """tokens [B, N, D] with positions, text [B, T, W], text_mask [B, T] True = word: [B, N, D]."""
        mask = text_mask[:, None, None]
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, text, mask, use_reentrant=False)
            else:
                tokens = block(tokens, text, mask)
        return tokens


def fill_removed(visible: Tensor, keep: PatchSubset, mask_token: Tensor) -> Tensor:
    """Put kept tokens back at their places and the mask token [1, 1, D] at the others.

    visible [B, 1 + K, D], CLS first -> [B, 1 + L, D].
    """
    source = torch.cat([visible[:, 1:], mask_token.to(visible.dtype).expand(visible.shape[0], -1, -1)], dim=1)
    # each place takes the next kept token, or the mask token that stands last
    rank = (~keep.removed).cumsum(1) - 1
    place = torch.where(keep.removed, source.shape[1] - 1, rank)
    return torch.cat([visible[:, :1], take_tokens(source, place)], dim=1)


def patchify(image: Tensor, patch: int) -> Tensor:
    """Pixels [B, 3, H, W] -> patches [B, L, P * P * 3], row by row, channels last."""
    batch, channels, height, width = image.shape
    grid = image.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Inverse of `patchify`: [B, L, P * P * 3] -> [B, 3, H, W] for a (rows, columns) grid."""
    pixels = patches.reshape(patches.shape[0], *grid, patch, patch, -1)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, grid[0] * patch, grid[1] * patch)
