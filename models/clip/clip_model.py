"""CLIP's dual encoder as a model to search with; what IRRA and RDE have in common.

Letters: B batch, T text tokens, E embedding, F all embeddings side by side.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from dataset.batch import PairBatch, TextTokens
from models.clip.encoder import EncoderSize
from models.clip.similarity_maps import SimilarityMaps
from models.clip.towers import Encoding
from models.image_encoder import PixelStatistics
from models.search_model import SearchModel


class ClipModel(SearchModel, SimilarityMaps):
    """A dual encoder `base_model`, and one or more embeddings of length 1 by name, whose cosines are averaged."""

    def __init__(self, size: EncoderSize, gradient_checkpointing: bool = False):
        super().__init__()
        self.base_model = size.build(gradient_checkpointing)
        self.grid, self.patch_size = self.base_model.grid, self.base_model.patch_size

    @property
    def statistics(self) -> PixelStatistics:
        return self.base_model.statistics

    @property
    def embedding_width(self) -> int:
        """F."""
        return self.base_model.size.embedding

    @property
    def row_length(self) -> int:
        """That of the table of positions, as tokenizers of CLIP pad."""
        return self.base_model.size.text_length

    def facts(self) -> dict[str, str]:
        """Weights have the same shapes whatever the heads and the stride are."""
        return {"clip": str(self.base_model.size)}

    @abstractmethod
    def image_embeddings(self, image: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W], normalised -> embeddings by name, [B, E]."""

    @abstractmethod
    def embeddings_of(self, image: Encoding) -> dict[str, Tensor]:
        """The same of images that were encoded, of whose tokens it asks once."""

    def embedding_of(self, image: Encoding) -> Tensor:
        """That which ranks [B, F], of images that were encoded."""
        return side_by_side(self.embeddings_of(image))

    @abstractmethod
    def text_embeddings(self, ids: Tensor) -> dict[str, Tensor]:
        """Captions [B, T] -> embeddings by name, [B, E]."""

    @abstractmethod
    def compute_losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """Unweighted losses of a training step by name, of images that are normalised."""

    def forward(self, batch: PairBatch) -> tuple[dict[str, Tensor], None]:
        """One training step: unweighted losses by name; nothing is kept of it."""
        return self.compute_losses(self.normalised(batch)), None

    def normalised(self, batch: PairBatch) -> PairBatch:
        """A batch as losses read it, its images [B, 3, H, W], uint8 or normalised already."""
        return replace(batch, image=self.statistics.normalise(batch.image))

    def encode_image(self, image: Tensor) -> tuple[Tensor | None, Tensor]:
        """Images [B, 3, H, W], uint8 or normalised -> no tokens, as pairs are not scored, and embeddings [B, F]."""
        return None, side_by_side(self.image_embeddings(self.statistics.normalise(image)))

    def embed_text(self, text: TextTokens) -> Tensor:
        """Captions -> embeddings [B, F]; the end of a caption is its highest id."""
        return side_by_side(self.text_embeddings(text.ids))


def side_by_side(embeddings: Mapping[str, Tensor]) -> Tensor:
    """Embeddings of length 1 as one of length 1, so that the product of two is the mean of their cosines."""
    return torch.cat(list(embeddings.values()), dim=-1) / len(embeddings) ** 0.5
