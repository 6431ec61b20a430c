"""The transformer of both towers of CLIP and of IRRA's cross-modal encoder, under OpenAI's names.

Letters: B batch, L tokens, M tokens of another row, R tokens that are asked for alone, W width, A heads, d width of a
head.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softmax
from torch.utils.checkpoint import checkpoint

from models.image_encoder import take_tokens
from models.kernels import LayerNorm, Linear, attend, bytes_of, elementwise, in_the_past, project
from utils.precision import full_precision

SIGMOID_SCALE = 1.702  # of QuickGELU


def quick_gelu(states: Tensor) -> Tensor:
    """x sigmoid(1.702 x), by the one kernel that torch has for x sigmoid(x)."""
    return silu(SIGMOID_SCALE * states) / SIGMOID_SCALE


class QuickGELU(nn.Module):
    """CLIP's activation, whose output the `Linear` layer that reads it need not keep."""

    def forward(self, states: Tensor) -> Tensor:
        return elementwise(quick_gelu, states, inner=bytes_of(*states.shape, like=states))


class Attention(nn.Module):
    """Multi-head attention with the parameters and the initialisation of torch's MultiheadAttention.

    causal: a token attends to itself and to the earlier ones.
    """

    def __init__(self, width: int, heads: int, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # query, key, value
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: Tensor, index: Tensor | None = None) -> Tensor:
        """Self-attention: [B, L, W] -> [B, L, W]; of tokens `index` [B, R] alone: [B, R, W]."""
        if index is None:
            query, keys, values = self.heads_of(tokens, 0, 3)
            return self.merge(attend(query, keys, values, causal=self.causal))
        (query,), (keys, values) = self.heads_of(take_tokens(tokens, index), 0, 1), self.heads_of(tokens, 1, 3)
        return self.merge(attend(query, keys, values, mask=self.mask_of(index, tokens.shape[1])))

    def cross(self, tokens: Tensor, others: Tensor) -> Tensor:
        """Cross-attention of tokens [B, L, W] to those of another row [B, M, W]: [B, L, W]."""
        (query,), (keys, values) = self.heads_of(tokens, 0, 1), self.heads_of(others, 1, 3)
        return self.merge(attend(query, keys, values))

    @torch.no_grad()
    def weights(self, tokens: Tensor, index: Tensor) -> Tensor:
        """How much tokens `index` [B, R] attend to each token, mean over heads, without gradient: [B, R, L]."""
        (query,) = self.heads_of(take_tokens(tokens, index), 0, 1)
        (keys,) = self.heads_of(tokens, 1, 2)
        with full_precision(query):
            scores = (query * query.shape[-1] ** -0.5).float() @ keys.float().transpose(-1, -2)  # [B, A, R, L]
            if (mask := self.mask_of(index, tokens.shape[1])) is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            return softmax(scores, dim=-1).mean(1)

    def mask_of(self, index: Tensor, length: int) -> Tensor | None:
        """What tokens `index` [B, R] may attend to among so many, True: [B, 1, R, L]; None = to all."""
        return in_the_past(length, index.device)[index][:, None] if self.causal else None

    def with_attention(self, tokens: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """`cross` without a fused kernel: [B, L, W], and the weights [B, A, L, M], by which gradients can be taken.

        The gradient ends at the weights. Where `others` are of the same row, it is self-attention that is not causal.
        """
        (query,), (keys, values) = self.heads_of(tokens, 0, 1), self.heads_of(others, 1, 3)
        weights = softmax((query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2), dim=-1).detach().requires_grad_()
        return self.merge(weights @ values), weights

    def heads_of(self, tokens: Tensor, first: int, end: int) -> Tensor:
        """Query (0), keys (1) and values (2) of tokens, from `first` to before `end`: [count, B, A, L, d]."""
        rows = slice(first * tokens.shape[-1], end * tokens.shape[-1])
        projected = project(tokens, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return projected.unflatten(-1, (end - first, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def merge(self, heads: Tensor) -> Tensor:
        """[B, A, L, d] -> [B, L, W]."""
        return self.out_proj(heads.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """W -> 4W, an activation, 4W -> W."""

    def __init__(self, width: int, activation: type[nn.Module] = QuickGELU):
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.gelu = activation()
        self.c_proj = Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, W] -> [B, L, W]."""
        return self.c_proj(self.gelu(self.c_fc(tokens)))


class Block(nn.Module):
    """Pre-norm: self-attention, then a feed-forward network four times as wide. No dropout."""

    def __init__(self, width: int, heads: int, causal: bool = False, activation: type[nn.Module] = QuickGELU):
        super().__init__()
        self.attn = Attention(width, heads, causal)
        self.ln_1 = LayerNorm(width)
        self.mlp = Mlp(width, activation)
        self.ln_2 = LayerNorm(width)

    def forward(self, tokens: Tensor, index: Tensor | None = None) -> Tensor:
        """[B, L, W] -> [B, L, W]; of tokens `index` [B, R] alone: [B, R, W]."""
        return self.feed_forward(rows_of(tokens, index) + self.attn(self.ln_1(tokens), index))

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """What follows attention: [B, L, W] -> [B, L, W]."""
        return tokens + self.mlp(self.ln_2(tokens))

    def with_attention(self, tokens: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`forward`, and the weights of its attention [B, A, R or L, L], as of `Attention.with_attention`."""
        assert not self.attn.causal
        normed = self.ln_1(tokens)
        attended, weights = self.attn.with_attention(rows_of(normed, index), normed)
        return self.feed_forward(rows_of(tokens, index) + attended), weights


def rows_of(tokens: Tensor, index: Tensor | None) -> Tensor:
    """Tokens [B, L, W], or those at index [B, R] alone: [B, R, W]."""
    return tokens if index is None else take_tokens(tokens, index)


class Transformer(nn.Module):
    """Blocks of one width; gradient_checkpointing computes them again in the backward pass."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        causal: bool = False,
        activation: type[nn.Module] = QuickGELU,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.resblocks = nn.ModuleList(Block(width, heads, causal, activation) for _ in range(depth))

    def forward(self, tokens: Tensor, but_last: bool = False) -> Tensor:
        """[B, L, W] -> [B, L, W]; but_last: leaves the last block to `last`."""
        blocks = list(self.resblocks)
        for block in blocks[:-1] if but_last else blocks:
            tokens = self.run(block, tokens)
        return tokens

    def last(self, tokens: Tensor, index: Tensor | None = None) -> Tensor:
        """The last block: [B, L, W] -> [B, L, W]; of tokens `index` [B, R] alone: [B, R, W]."""
        return self.run(self.resblocks[-1], tokens, index)

    def with_attention(self, tokens: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`last`, and the weights of its attention [B, A, R or L, L], as of `Attention.with_attention`."""
        block = self.resblocks[-1]
        assert isinstance(block, Block)
        return block.with_attention(tokens, index)

    @torch.no_grad()
    def attention(self, tokens: Tensor, index: Tensor) -> Tensor:
        """What tokens `index` [B, R] of what the last block reads attend to in it, without gradient: [B, R, L].

        That is computed beside the block, and not by it, which leaves it the fused kernel.
        """
        block = self.resblocks[-1]
        assert isinstance(block, Block)
        return block.attn.weights(block.ln_1(tokens), index)

    def run(self, block: nn.Module, tokens: Tensor, index: Tensor | None = None) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, tokens, index, use_reentrant=False)
        return block(tokens, index)


@torch.no_grad()
def initialise_blocks(blocks: nn.ModuleList, width: int) -> None:
    """Normal weights whose sum over the residual branches of all blocks keeps its size (CLIP's own initialisation)."""
    for block in blocks:
        assert isinstance(block, Block)
        initialise_attention(block.attn, width, len(blocks))
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=residual_std(width, len(blocks)))


def initialise_attention(attention: Attention, width: int, depth: int) -> None:
    nn.init.normal_(attention.in_proj_weight, std=width**-0.5)
    nn.init.normal_(attention.out_proj.weight, std=residual_std(width, depth))


def residual_std(width: int, depth: int) -> float:
    """Of weights that are the last of a residual branch, of which a transformer has two in each block."""
    return width**-0.5 * (2 * depth) ** -0.5
