"""What a CLIP system asks of its dual encoder: images and captions in, features and tokens out.

There are two: `models.clip.towers` is OpenAI's architecture, `models.clip.library_towers` any other that open_clip
builds.

Letters: B batch, N image tokens, T text tokens, L either, E embedding.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from torch import Tensor, nn

from models.image_encoder import PixelStatistics
from models.positions import Grid


class TowerEncoding(Protocol):
    """A batch that one of the towers has read, in the space of embeddings."""

    def feature(self) -> Tensor:
        """What stands for a whole image or caption: [B, E]."""
        ...

    def tokens(self) -> Tensor:
        """All tokens: [B, L, E], of captions as many as ids were given."""
        ...

    def with_tokens(self) -> tuple[Tensor, Tensor]:
        """`feature` and `tokens`, where both are needed."""
        ...


class Encoder(nn.Module, ABC):
    """Both towers.

    grid: patches along height and width; patch_size: their side in pixels. statistics: how pixels are normalised. size:
    what it was built by. shows_attention: whether it can be read what tokens attend to in the last block
    (`models.clip.towers.Encoding`), by which RDE selects and maps are drawn.
    """

    shows_attention: ClassVar[bool]
    grid: Grid
    patch_size: int
    statistics: PixelStatistics
    size: "EncoderSize"

    @abstractmethod
    def encode_image(self, image: Tensor) -> TowerEncoding:
        """Images [B, 3, H, W], normalised -> tokens [B, N, E]."""

    @abstractmethod
    def encode_text(self, ids: Tensor) -> TowerEncoding:
        """Token ids [B, T], padded at their end if at all -> tokens [B, T, E]."""


class EncoderSize(Protocol):
    """What an encoder is built by.

    embedding: E. text_length: of the table of positions; vocabulary: of token ids.
    """

    @property
    def embedding(self) -> int: ...

    @property
    def text_length(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    def build(self, gradient_checkpointing: bool) -> Encoder:
        """The encoder, freshly initialised; gradient_checkpointing: blocks are computed again in the backward pass."""
        ...
