"""Vision Transformer image encoder (ViT-B/16 of ALBEF, RaSa and MARS).

Letters: B batch, N image tokens, D width.
"""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.image_encoder import PatchEncoder, VisionSize, drop_rates
from models.kernels import GELU, DropPath, LayerNorm, Linear, attend


class SelfAttention(nn.Module):
    """Multi-head self-attention; query, key and value by one product."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        query, keys, values = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(query, keys, values).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """D -> 4D, GELU, 4D -> D."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.act = GELU()
        self.fc2 = Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return self.fc2(self.act(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm: self-attention, then a feed-forward network four times as wide."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.drop = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        tokens = tokens + self.drop(self.attn(self.norm1(tokens)))
        return tokens + self.drop(self.mlp(self.norm2(tokens)))


class VisionTransformer(PatchEncoder):
    """CLS in front of the patches, pre-norm blocks, a final norm."""

    def __init__(self, size: VisionSize, gradient_checkpointing: bool = False):
        super().__init__(size, gradient_checkpointing)
        rates = drop_rates(size.drop_path, size.depth)
        self.blocks = nn.ModuleList(Block(size.width, size.heads, rate) for rate in rates)
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

    @staticmethod
    def cls_index(patches: int) -> int:
        return 0

    def compiled_parts(self) -> list[nn.Module]:
        return list(self.blocks)

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens with positions [B, N, D] -> [B, N, D], normed."""
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.norm(tokens)
