"""What evaluation and search ask of a model, whichever system it is of.

Letters: B batch, N image tokens, D width, E embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from dataset.batch import TextTokens
from models.image_encoder import PixelStatistics


class SearchModel(nn.Module, ABC):
    """A model that embeds images and captions side by side, so that cosine similarity ranks a gallery.

    embeddings: where an embedding is several side by side, the numbers of each by name, as stages of an evaluation.
    search_parts: what the names of tensors that search reads begin with; study_parts: of those that studies of a
    trained model read beside. reranks: whether it also scores pairs (`models.person_search.PersonSearchModel`).
    row_length: to which captions are padded, where no mask tells their words; None = a mask does, at any length.
    grid: patches along height and width; patch_size: their side in pixels; statistics: how pixels are normalised.
    """

    embeddings: Mapping[str, slice] = {}
    search_parts: ClassVar[tuple[str, ...]] = ("",)
    study_parts: ClassVar[tuple[str, ...]] = ()
    reranks: ClassVar[bool] = False
    grid: tuple[int, int]
    patch_size: int

    @property
    @abstractmethod
    def statistics(self) -> PixelStatistics: ...

    @property
    def row_length(self) -> int | None:
        return None

    def is_exported(self, name: str) -> bool:
        """Whether a tensor is of use without training: momentum copies, queues and heads of other losses are not."""
        return name.startswith((*self.search_parts, *self.study_parts))

    def facts(self) -> dict[str, str]:
        """What results depend on beside the weights: a gallery is searched with the same alone."""
        return {}

    @property
    @abstractmethod
    def embedding_width(self) -> int:
        """E."""

    @abstractmethod
    def encode_image(self, image: Tensor) -> tuple[Tensor | None, Tensor]:
        """Images [B, 3, H, W], uint8 or normalised -> tokens [B, N, D] that pairs are scored by, and embeddings [B, E].

        None: pairs are not scored. Embeddings are of length 1, in float32.
        """

    @abstractmethod
    def embed_text(self, text: TextTokens) -> Tensor:
        """Captions -> embeddings [B, E] of length 1, in float32."""
