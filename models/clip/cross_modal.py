"""IRRA's implicit relation reasoning: words that were masked are predicted from the image (IRRA section 3.2).

Letters: B batch, N image tokens, T text tokens, E embedding, V vocabulary, A heads.
"""

from torch import Tensor, nn

from models.clip.blocks import Attention, QuickGELU, Transformer, initialise_attention, initialise_blocks, residual_std
from models.kernels import LayerNorm, Linear

# what the names of its tensors begin with
PARTS = ("cross_attn.", "cross_modal_transformer.", "ln_pre_t.", "ln_pre_i.", "ln_post.", "mlm_head.")


class WordHead(nn.Module):
    """E -> E, QuickGELU, norm, E -> V; it shares no weight with the embedding of tokens."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.dense = Linear(width, width)
        self.gelu = QuickGELU()
        self.ln = LayerNorm(width)
        self.fc = Linear(width, vocabulary)

    def forward(self, states: Tensor) -> Tensor:
        """[..., E] -> [..., V]."""
        return self.fc(self.ln(self.gelu(self.dense(states))))


class CrossModal(nn.Module):
    """Captions attend to images once, and to themselves in some blocks; padding takes part, as published.

    The released files have its parameters beside those of the encoders, without a prefix: IRRA is a subclass of it.
    """

    cross_attn: Attention
    cross_modal_transformer: Transformer
    mlm_head: WordHead

    def build_cross_modal(self, width: int, heads: int, depth: int, vocabulary: int) -> None:
        """Build and initialise its parts; without them a model has none of their parameters."""
        self.cross_attn = Attention(width, heads)
        self.cross_modal_transformer = Transformer(width, depth, heads)
        self.ln_pre_t = LayerNorm(width)
        self.ln_pre_i = LayerNorm(width)
        self.ln_post = nn.LayerNorm(width)
        self.mlm_head = WordHead(width, vocabulary)
        initialise_attention(self.cross_attn, width, depth)
        initialise_blocks(self.cross_modal_transformer.resblocks, width)
        nn.init.normal_(self.mlm_head.dense.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.mlm_head.fc.weight, std=residual_std(width, depth))

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """Tokens of captions [B, T, E] and of their images [B, N, E] -> states [B, T, E]."""
        return self.mix(self.cross_attn.cross(self.ln_pre_t(text), self.ln_pre_i(image)))

    def with_attention(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """`fuse`, and the weights [B, A, T, N] of its cross-attention, by which gradients can be taken."""
        states, weights = self.cross_attn.with_attention(self.ln_pre_t(text), self.ln_pre_i(image))
        return self.mix(states), weights

    def mix(self, states: Tensor) -> Tensor:
        """What follows cross-attention: [B, T, E] -> [B, T, E]."""
        states = self.cross_modal_transformer(states.float())  # sums of residual branches, which autocast leaves so
        return self.ln_post(states)
