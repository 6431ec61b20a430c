"""What a word attends to: Grad-CAM on cross-attention maps, as ALBEF uses it (section 6; Selvaraju et al., 2017).

Letters: B pairs of caption and image, A heads, T text tokens, L patches, N image tokens (1 + L), C attributes, D width.

The map of a word is its attention to each patch in one fusion layer times the gradient of a match logit by that
attention, negative products left out, averaged over heads: the patches that this word attended to and that spoke for a
match. That of an attribute, or of a whole caption, is the mean of its words.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softmax

from dataset.batch import TextTokens
from models.fusion import ImageKeysValues, Layer, LayerContext, TextEncoder
from models.image_encoder import ImageEncoder
from models.losses import attribute_weights
from models.pairing import Pairing
from models.word_maps import ExplainsWords, MarkedText, WordMaps, attribute_maps
from utils.errors import UserError


class FusionMaps(ExplainsWords):
    """Maps of words of a model whose fusion encoder attends to images."""

    visual_encoder: ImageEncoder
    text_encoder: TextEncoder

    @abstractmethod
    def normalise(self, image: Tensor) -> Tensor: ...

    @abstractmethod
    def match_logits(self, states: Tensor) -> Tensor: ...

    @property
    def map_targets(self) -> Sequence[str]:
        return "match", "attribute"

    def map_layers(self, target: str) -> Sequence[int]:
        size = self.text_encoder.size
        return range(size.first_cross_layer, size.num_hidden_layers - (target == "match"))

    def usual_map_layer(self, target: str) -> int:
        return usual_layer(self.text_encoder)

    def require_map_layer(self, layer: int, target: str) -> None:
        require_maps(self.text_encoder, layer, target)

    def word_maps(
        self, images: Tensor, marked: MarkedText, layer: int, target: str, with_words: bool = False
    ) -> WordMaps:
        """Those of all words are the others' origin, and always there."""
        return word_maps(self, images, marked.text, marked.attributes, layer, target)


def usual_layer(encoder: TextEncoder) -> int:
    """The layer whose maps are drawn by default: the fourth from the top (ALBEF: 8 of 0-11), or the first one with
    cross-attention. In small models maps of later layers hardly depend on the word."""
    return max(encoder.size.first_cross_layer, encoder.size.num_hidden_layers - 4)


def require_maps(encoder: TextEncoder, layer: int, target: str) -> None:
    """Raises UserError when words have no maps for `target` in this layer."""
    size = encoder.size
    last = size.num_hidden_layers - 1
    if not size.first_cross_layer <= layer <= last:
        raise UserError(f"layer {layer} has no cross-attention; choose one from {size.first_cross_layer} to {last}")
    if layer == last and target == "match":
        raise UserError(
            f"layer {layer} is the last one, of which the match logit reads CLS alone: its words have no maps; choose"
            f" {'an earlier layer' if size.first_cross_layer < last else 'target attribute'}"
        )


def word_maps(
    model: FusionMaps,
    images: Tensor,
    text: TextTokens,
    attributes: Tensor,
    layer: int | None = None,
    target: str = "match",
) -> WordMaps:
    """Grad-CAM of all words of B captions on the image of each.

    model: in evaluation mode. images [B, 3, H, W], uint8 or normalised; text: ids and mask [B, T]; attributes [B, T]:
    the number of the attribute that each word belongs to, 0 = none. target: the logit whose gradient counts, "match" of
    the pair, or "attribute": of the attribute that a word belongs to, so that other words have no map.

    Raises UserError when there are no such maps in `layer` (default: `usual_layer`).
    """
    encoder = model.text_encoder
    layer = usual_layer(encoder) if layer is None else layer
    require_maps(encoder, layer, target)
    with torch.no_grad():
        keys_values = encoder.project_images(model.visual_encoder(model.normalise(images)))
        text_prefix = encoder.encode_prefix(text.ids, text.mask)
    with torch.enable_grad():
        states, attention = fuse_with_maps(encoder, text_prefix, text.mask, keys_values, layer)
        match = model.match_logits(states[:, 0])[:, 1]
        weights = attribute_weights(attributes, int(attributes.max()))  # [B, C, T]
        by_attribute = model.match_logits(weights @ states.float())[..., 1]  # [B, C]
        if target == "match":
            gradient = torch.autograd.grad(match.sum(), attention)[0]
        else:
            gradient = attribute_gradient(by_attribute, attention, attributes)
    maps = (attention * gradient).clamp(min=0).mean(1)[..., 1:].detach().float()
    return WordMaps(
        maps=maps,
        caption=mean_of_words(maps, text.mask),
        attributes=attribute_maps(maps, attributes),
        score=match.detach(),
        attribute_score=by_attribute.detach().where(weights.any(-1), 0),
    )


def mean_of_words(maps: Tensor, mask: Tensor) -> Tensor:
    """Mean map over all words, CLS and SEP left out: maps [B, T, L], mask [B, T] True = word -> [B, L]."""
    rows = [row[1 : length - 1] for row, length in zip(maps, mask.sum(1).tolist(), strict=True)]
    return torch.stack([row.mean(0) if len(row) else row.new_zeros(row.shape[1]) for row in rows])


def attribute_gradient(logits: Tensor, attention: Tensor, attributes: Tensor) -> Tensor:
    """The gradient [B, A, T, N] of the logit [B, C] of the attribute that a word belongs to, 0 for other words."""
    gradient = torch.zeros_like(attention)
    for number in range(logits.shape[1]):
        of_one = torch.autograd.grad(logits[:, number].sum(), attention, retain_graph=True)[0]
        gradient += of_one * (attributes == number + 1)[:, None, :, None]
    return gradient


def fuse_with_maps(
    encoder: TextEncoder, text_prefix: Tensor, mask: Tensor, keys_values: ImageKeysValues, layer: int
) -> tuple[Tensor, Tensor]:
    """`TextEncoder.fuse` with the attention maps [B, A, T, N] of one layer: (states [B, T, D], maps)."""
    size, context = encoder.size, LayerContext(mask[:, None, None], keys_values, Pairing())
    first, here = size.first_cross_layer, encoder.layers[layer]
    done = size.full_ca and layer == first  # its self-attention
    with torch.no_grad():  # the gradient ends at the maps
        states = encoder.run(text_prefix, range(first, layer), context, attended=size.full_ca)
        states = states if done else here.attend_to_text(states, context.at(layer))
    states, maps = cross_attend_with_maps(here, states, *keys_values.layers[layer])
    return encoder.run(states, range(layer + 1, size.num_hidden_layers), context), maps


def cross_attend_with_maps(layer: Layer, states: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """What follows self-attention: states [B, T, D], and the attention maps [B, A, T, N], which take a gradient."""
    attention = layer.crossattention
    query = attention.split(attention.self.query(states))
    maps = softmax((query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2), dim=-1)
    maps = maps.detach().requires_grad_()
    return layer.feed_forward(attention.merge(maps @ values, states)), maps
