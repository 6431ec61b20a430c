"""CLIP's dual encoder: a Vision Transformer for images and a causal one for captions, under OpenAI's names.

Letters: B batch, N image tokens (1 + patches), T text tokens, L either, R tokens that are asked for alone, W width,
A heads, E embedding, P patch.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.clip.blocks import QuickGELU, Transformer, initialise_blocks
from models.clip.encoder import Encoder
from models.image_encoder import CLIP_STATISTICS, take_tokens
from models.kernels import GELU, LayerNorm, project

HEAD_WIDTH = 64  # of published models; the shapes of a file do not tell


@dataclass(frozen=True)
class ClipSize:
    """Sizes of both towers (default: ViT-B/16 on images of persons); image_size is (height, width) in pixels.

    stride: pixels from one patch to the next. text_length: of the table of positions; vocabulary: of token ids.
    quick_gelu: the activation, of OpenAI's models and those that start from them; False = GELU, of most others.
    """

    image_size: tuple[int, int] = (384, 128)
    patch_size: int = 16
    stride: int = 16
    vision_width: int = 768
    vision_depth: int = 12
    vision_heads: int = 12
    text_width: int = 512
    text_depth: int = 12
    text_heads: int = 8
    text_length: int = 77
    vocabulary: int = 49408
    embedding: int = 512
    quick_gelu: bool = True

    @property
    def activation(self) -> type[nn.Module]:
        return QuickGELU if self.quick_gelu else GELU

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along height and width."""
        height, width = ((side - self.patch_size) // self.stride + 1 for side in self.image_size)
        return height, width

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def build(self, gradient_checkpointing: bool) -> "DualEncoder":
        """The encoder, freshly initialised."""
        return DualEncoder(self, gradient_checkpointing)


@dataclass(frozen=True)
class Encoding:
    """A batch in a tower up to its last block, which is computed for those tokens alone that are asked for.

    states [B, L, W]: what that block reads. own [B]: the token that stands for its row, CLS or EOT. transformer, norm,
    projection [W, E]: of the tower.
    """

    states: Tensor
    own: Tensor
    transformer: Transformer
    norm: LayerNorm
    projection: Tensor

    def tokens(self, index: Tensor | None = None) -> Tensor:
        """Tokens in the space of embeddings: all [B, L, E], or those at index [B, R] alone: [B, R, E]."""
        return self.projected(self.transformer.last(self.states, index))

    def projected(self, tokens: Tensor) -> Tensor:
        """What comes out of the last block [B, R or L, W] in the space of embeddings."""
        return project(self.norm(tokens), self.projection.t())

    def feature(self) -> Tensor:
        """The token that stands for its row, alone: [B, E]."""
        return self.tokens(self.own[:, None]).squeeze(1)

    def with_tokens(self) -> tuple[Tensor, Tensor]:
        """`feature`, and all tokens, by one pass through the last block."""
        tokens = self.tokens()
        return token_at(tokens, self.own), tokens

    def attention(self, index: Tensor) -> Tensor:
        """What tokens `index` [B, R] attend to in the last block, mean over heads, without gradient: [B, R, L]."""
        return self.transformer.attention(self.states, index)

    def own_attention(self) -> Tensor:
        """The same of the token that stands for its row: [B, L]."""
        return self.attention(self.own[:, None]).squeeze(1)

    def with_attention(self) -> "EncodingWithAttention":
        """The same, which keeps what its tokens attend to."""
        return EncodingWithAttention(self.states, self.own, self.transformer, self.norm, self.projection)


@dataclass(frozen=True)
class EncodingWithAttention(Encoding):
    """An encoding of images whose tokens have a gradient by the attention of the last block, where it ends.

    weights: of that attention, for each call of `tokens` [B, A, R or L, L].
    """

    weights: list[Tensor] = field(default_factory=list)

    def tokens(self, index: Tensor | None = None) -> Tensor:
        tokens, weights = self.transformer.with_attention(self.states, index)
        self.weights.append(weights)
        return self.projected(tokens)


class ImageTower(nn.Module):
    """Vision Transformer with a norm before its blocks; each token is projected, not CLS alone."""

    def __init__(self, size: ClipSize, gradient_checkpointing: bool = False):
        super().__init__()
        width = size.vision_width
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + size.patches, width))
        self.proj = nn.Parameter(torch.empty(width, size.embedding))
        self.conv1 = nn.Conv2d(3, width, size.patch_size, stride=size.stride, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(
            width,
            size.vision_depth,
            size.vision_heads,
            activation=size.activation,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.ln_post = LayerNorm(width)
        for tensor in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(tensor, std=width**-0.5)

    def forward(self, image: Tensor) -> Encoding:
        """Images [B, 3, H, W], normalised -> tokens [B, N, E], CLS first."""
        patches = self.conv1(image).flatten(2).transpose(1, 2)  # [B, N - 1, Wv], the top row first
        cls = self.class_embedding.expand(patches.shape[0], 1, -1)
        tokens = self.ln_pre(torch.cat([cls, patches], dim=1) + self.positional_embedding)
        first = torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device)
        return Encoding(self.transformer(tokens, but_last=True), first, self.transformer, self.ln_post, self.proj)


class DualEncoder(Encoder):
    """Both towers of CLIP. The text tower has no prefix in OpenAI's files, and so no module of its own."""

    statistics = CLIP_STATISTICS
    shows_attention = True
    size: ClipSize

    def __init__(self, size: ClipSize, gradient_checkpointing: bool = False):
        super().__init__()
        self.size, width = size, size.text_width
        self.grid, self.patch_size = size.grid, size.patch_size
        self.positional_embedding = nn.Parameter(torch.empty(size.text_length, width))
        self.text_projection = nn.Parameter(torch.empty(width, size.embedding))
        self.visual = ImageTower(size, gradient_checkpointing)
        self.transformer = Transformer(
            width,
            size.text_depth,
            size.text_heads,
            causal=True,
            activation=size.activation,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.token_embedding = nn.Embedding(size.vocabulary, width)
        self.ln_final = LayerNorm(width)
        self.initialise()

    def initialise(self) -> None:
        """What a run without a file starts from, as CLIP's own training did."""
        width = self.size.text_width
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        initialise_blocks(self.transformer.resblocks, width)

    def encode_image(self, image: Tensor) -> Encoding:
        """Images [B, 3, H, W], normalised -> tokens [B, N, E], CLS first."""
        return self.visual(image)

    def encode_text(self, ids: Tensor) -> Encoding:
        """Token ids [B, T] -> tokens [B, T, E].

        Captions that are all shorter than the table of positions need not be padded to its length: no token attends
        to a later one.
        """
        tokens = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        states = self.transformer(tokens, but_last=True)
        return Encoding(states, end_of_text(ids), self.transformer, self.ln_final, self.text_projection)


def end_of_text(ids: Tensor) -> Tensor:
    """Where captions [B, T] end: the first token with the highest id, EOT [B]."""
    return ids.argmax(dim=1)


def token_at(tokens: Tensor, index: Tensor) -> Tensor:
    """One token of each row: tokens [B, T, E], index [B] -> [B, E]."""
    return take_tokens(tokens, index[:, None]).squeeze(1)
