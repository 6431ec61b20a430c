"""Vision Transformer image encoder (ViT-B/16 of ALBEF, RaSa and MARS).

Letters: B batch, L patches, N image tokens (1 + L), K kept patches, D width, P patch.
"""

from dataclasses import dataclass

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.checkpoint import checkpoint

from models.attention import attend
from models.linear import Linear, through


@dataclass(frozen=True)
class VisionSize:
    """Sizes of the image encoder; `image_size` is (height, width) in pixels."""

    image_size: tuple[int, int] = (384, 384)
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12

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


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
        """[B, N, D], to be normed -> [B, N, D]."""
        query, keys, values = through(norm, self.qkv, tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(query, keys, values).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """D -> 4D, GELU, 4D -> D."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)

    def forward(self, tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
        """[B, N, D], to be normed -> [B, N, D]."""
        return through(gelu, self.fc2, through(norm, self.fc1, tokens))


class Block(nn.Module):
    """Pre-norm: self-attention, then a feed-forward network four times as wide."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(tokens, self.norm1)
        return tokens + self.mlp(tokens, self.norm2)


class VisionTransformer(nn.Module):
    """Patches, one CLS token in front, pre-norm blocks, a final norm."""

    def __init__(self, size: VisionSize, gradient_checkpointing: bool = False):
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.patch_embed = PatchEmbed(size.image_size, size.patch_size, 3, size.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + size.patches, size.width))
        self.blocks = nn.ModuleList(Block(size.width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.initialise()

    def initialise(self) -> None:
        """What a run without a checkpoint starts from.

        Xavier's bounds suit any width, and positions are about as large as the patches that they
        are added to: with ViT's usual 0.02 for both, a small model spends most of a short run on
        finding out where in the image things are.
        """
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=1.0)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor, keep: PatchSubset | None = None) -> Tensor:
        """Encode images [B, 3, H, W] (normalised) as tokens [B, 1 + L, D], CLS first.

        With `keep`, removed patches never enter the blocks: [B, 1 + K, D].
        """
        tokens = self.patch_embed(image) + self.pos_embed[:, 1:]
        if keep is not None:
            tokens = take_tokens(tokens, keep.kept)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([cls, tokens], dim=1)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.norm(tokens)
