"""What a word attends to: Grad-CAM on cross-attention maps, as ALBEF uses it (section 6; Selvaraju et al., 2017).

Letters: B pairs of caption and image, A heads, T text tokens, L patches, N image tokens (1 + L), C attributes, D width.

The map of a word is its attention to each patch in one fusion layer times the gradient of a match logit by that
attention, negative products left out, averaged over heads: the patches that this word attended to and that spoke for a
match.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softmax

from dataset.batch import TextTokens
from models.fusion import ImageKeysValues, Layer, LayerContext, TextEncoder
from models.losses import attribute_weights
from models.pairing import Pairing
from models.person_search import PersonSearchModel
from utils.errors import UserError

TARGETS = ("match", "attribute")


@dataclass(frozen=True)
class WordMaps:
    """maps [B, T, L]: Grad-CAM of each word, 0 or more; match [B]: ITM match logits.

    attribute_match [B, C]: match logits of attributes 1 ... C by the mean state of their words (MARS section 3.3), 0
    where a caption has none of that number.
    """

    maps: Tensor
    match: Tensor
    attribute_match: Tensor


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
    model: PersonSearchModel,
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
    maps = (attention * gradient).clamp(min=0).mean(1)[..., 1:]
    present = weights.any(-1)
    return WordMaps(maps.detach().float(), match.detach(), by_attribute.detach().where(present, 0))


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


def attribute_maps(maps: Tensor, attributes: Tensor) -> Tensor:
    """Mean map of the words of each attribute: maps [B, T, L], attributes [B, T] -> [B, C, L]."""
    return attribute_weights(attributes, int(attributes.max())).to(maps.dtype) @ maps
