"""Text-guided masked autoencoder decoder (MARS section 3.4).

Letters: B batch, L patches, N image tokens (1 + L), K kept patches, T text tokens, D width,
P patch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.checkpoint import checkpoint

from models.image_encoder import PatchSubset, take_tokens
from models.kernels import LayerNorm, Linear, attend, bytes_of, cast_once, elementwise


@dataclass(frozen=True)
class DecoderSize:
    """Sizes of the decoder; its width is that of the image encoder."""

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
        """Queries from states [B, N, D], keys and values from source [B, T, W] -> [B, N, D].

        mask [B, 1, 1, T] True = attend.
        """
        source = cast_once(source)
        parts = (self.to_q(states), self.to_k(source), self.to_v(source))
        query, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = attend(query, keys, values, mask)
        return self.to_out[0](attended.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """value * GELU(gate) of one product (Shazeer, 2020): D -> 4D."""

    def __init__(self, width: int):
        super().__init__()
        self.l = Linear(width, 8 * width)

    def forward(self, states: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, 4D]."""
        both = self.l(states)
        return elementwise(gated_gelu, both, inner=bytes_of(*both.shape, like=both))


def gated_gelu(both: Tensor) -> Tensor:
    """Values and gates side by side [..., 8D] -> value * GELU(gate) [..., 4D]."""
    value, gate = both.chunk(2, dim=-1)
    return value * gelu(gate)


class FeedForward(nn.Module):
    """D -> 4D by GEGLU, 4D -> D."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width), nn.Identity(), Linear(4 * width, width))

    def forward(self, states: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return self.net(states)


class DecoderBlock(nn.Module):
    """Pre-norm: self-attention, attention to the caption, feed-forward."""

    def __init__(self, width: int, text_width: int, heads: int):
        super().__init__()
        self.attn1 = DecoderAttention(width, width, heads)
        self.attn2 = DecoderAttention(width, text_width, heads)
        self.ff = FeedForward(width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2, self.norm3 = LayerNorm(width), LayerNorm(width)

    def forward(self, states: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """states [B, N, D], text [B, T, W], text_mask [B, 1, 1, T] True = word -> [B, N, D]."""
        normed = cast_once(self.norm1(states))
        states = states + self.attn1(normed, normed)
        states = states + self.attn2(self.norm2(states), text, text_mask)
        return states + self.ff(self.norm3(states))


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
    """Put kept tokens back at their indices and the mask token [1, 1, D] at the others.

    visible [B, 1 + K, D], CLS first -> [B, 1 + L, D].
    """
    source = torch.cat([visible[:, 1:], mask_token.to(visible.dtype).expand(visible.shape[0], -1, -1)], dim=1)
    # each index takes the next kept token, or the mask token, which is the last
    rank = (~keep.removed).cumsum(1) - 1
    index = torch.where(keep.removed, source.shape[1] - 1, rank)
    return torch.cat([visible[:, :1], take_tokens(source, index)], dim=1)


def patchify(image: Tensor, patch: int) -> Tensor:
    """Pixels [B, 3, H, W] -> patches [B, L, P * P * 3], row by row, channels last."""
    batch, channels, height, width = image.shape
    grid = image.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Inverse of `patchify`: [B, L, P * P * 3] -> [B, 3, H, W] for a (rows, columns) grid."""
    pixels = patches.reshape(patches.shape[0], *grid, patch, patch, -1)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, grid[0] * patch, grid[1] * patch)
