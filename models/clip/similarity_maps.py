"""Where CLIP, IRRA and RDE look for the words of a caption: Grad-CAM on the attention of the image tower.

A dual encoder reads a caption without its image, so what a word does shows in the similarity alone. The map of a
caption is the attention of the last block times the gradient, by it, of the cosine that ranks. The map of some words is
that of what they add to this cosine: the caption's, less that of the caption without them. The cosine of the phrase
alone would be simpler, but these models learned from whole captions, and a phrase says again what all captions say,
that there is a person. On drawn people what is added finds the pixels of its words more often (docs/clip.md).

Embeddings are read from tokens that the last block gives: CLS, and of RDE also the patches that it selects. The maps of
all of these that attend are summed. Earlier blocks are left out: what CLS reads of a patch there is already mixed with
others, and is mixed again afterwards.

Letters: B pairs of caption and image, A heads, N image tokens (1 + L), L patches, R tokens that embeddings read, T text
tokens, C attributes or words, F all embeddings side by side.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from dataset.batch import TextTokens
from models.clip.encoder import Encoder
from models.clip.towers import DualEncoder, Encoding
from models.image_encoder import PixelStatistics, take_tokens
from models.word_maps import ExplainsWords, MarkedText, WordMaps

PAD = 0


class SimilarityMaps(ExplainsWords):
    """Maps of a dual encoder, if it shows its attention."""

    base_model: Encoder

    @property
    @abstractmethod
    def statistics(self) -> PixelStatistics: ...

    @abstractmethod
    def embedding_of(self, image: Encoding) -> Tensor: ...

    @abstractmethod
    def embed_text(self, text: TextTokens) -> Tensor: ...

    @property
    def map_targets(self) -> Sequence[str]:
        return ("similarity",) if self.base_model.shows_attention else ()

    def map_layers(self, target: str) -> Sequence[int]:
        assert isinstance(self.base_model, DualEncoder)
        return (self.base_model.size.vision_depth - 1,)

    def usual_map_layer(self, target: str) -> int:
        return self.map_layers(target)[0]

    def word_maps(
        self, images: Tensor, marked: MarkedText, layer: int, target: str, with_words: bool = False
    ) -> WordMaps:
        return similarity_maps(self, images, marked, with_words)


def similarity_maps(model: SimilarityMaps, images: Tensor, marked: MarkedText, with_words: bool) -> WordMaps:
    """See `ExplainsWords.word_maps`; the scores of attributes are what they add to the cosine."""
    text, words, encoder = marked.text, None, model.base_model
    assert isinstance(encoder, DualEncoder)
    with torch.no_grad():
        whole = model.embed_text(text)
        encoded = encoder.encode_image(model.statistics.normalise(images)).with_attention()
    with torch.enable_grad():
        image = model.embedding_of(encoded)
        (weights,) = encoded.weights
        caption, score = maps_by(image, whole[:, None], weights)
        attributes, added = maps_by(image, added_by(model, text, marked.attributes, whole), weights)
        if with_words:
            words, _ = maps_by(image, added_by(model, text, marked.words, whole), weights)
    return WordMaps(
        maps=None if words is None else spread(words, marked.words),
        caption=caption[:, 0],
        attributes=attributes,
        score=score[:, 0],
        attribute_score=added,
    )


@torch.no_grad()
def added_by(model: SimilarityMaps, text: TextTokens, groups: Tensor, whole: Tensor) -> Tensor:
    """What the tokens of each group add to the embedding [B, F] of their caption: [B, C, F], 0 of absent groups.

    groups [B, T]: the number of the group that each token belongs to, 0 = none.
    """
    parts = [whole - model.embed_text(without(text, groups == number)) for number in numbers_of(groups)]
    return torch.stack(parts, 1) if parts else whole.new_zeros(len(whole), 0, whole.shape[1])


def without(text: TextTokens, removed: Tensor) -> TextTokens:
    """Captions without the tokens where `removed` [B, T] is True: those behind move up, padding (0) follows."""
    order = removed.byte().argsort(dim=1, stable=True)
    kept = text.mask & ~removed
    return TextTokens(text.ids.masked_fill(~kept, PAD).gather(1, order), kept.gather(1, order))


def maps_by(image: Tensor, texts: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, C, L] of the products [B, C] of images [B, F] with texts [B, C, F], by the weights [B, A, R, N]."""
    scores = (image[:, None] * texts).sum(-1)
    maps = [gradient_map(scores[:, number].sum(), weights).sum(1) for number in range(texts.shape[1])]
    empty = weights.new_zeros(len(weights), 0, weights.shape[-1] - 1)
    return torch.stack(maps, 1) if maps else empty, scores.detach()


def gradient_map(score: Tensor, weights: Tensor) -> Tensor:
    """Grad-CAM of attention weights [B, A, R, N]: [B, R, L], CLS of the image left out."""
    (gradient,) = torch.autograd.grad(score, weights, retain_graph=True)
    return (weights.detach() * gradient).clamp(min=0).mean(1)[..., 1:]


def numbers_of(groups: Tensor) -> range:
    """The numbers of groups of tokens [B, T]."""
    return range(1, int(groups.max()) + 1)


def spread(maps: Tensor, groups: Tensor) -> Tensor:
    """Maps [B, C, L] of groups for each of their tokens [B, T]: [B, T, L], 0 for tokens of none."""
    none = maps.new_zeros(len(maps), 1, maps.shape[2])
    return take_tokens(torch.cat([none, maps], 1), groups)
