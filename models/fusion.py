"""BERT that encodes a caption and, through cross-attention, fuses it with images.

Letters: R text rows, T text tokens, S words of all rows together (packed), B images, N image tokens,
D width, A heads, V vocabulary.

Most of the work of fusion is the projection of image tokens to keys and values, and it
depends on the image alone. So images are projected once, into an `ImageKeysValues`, and any
number of text rows attend to it: the five passes of a training step, or all captions that
have the image among their candidates when a gallery is re-ranked. Rows that share an
image stand side by side on the query axis (image tokens are never masked), so keys and
values are not copied; rows that all share one image need no padding either (`Packing`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.fusion_size import FusionSize
from models.kernels import GELU, Dropout, Linear, Segments, attend, attend_indexed, attend_segments, cast_once, in_order
from models.packing import Attends, Packing


@dataclass(frozen=True)
class ImageKeysValues:
    """Keys and values of B images, projected once for every layer with cross-attention.

    layers: layer number -> (keys, values), each [B, A, N, D / A].
    """

    layers: dict[int, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Pairing:
    """Which image each of R text rows attends to.

    aligned: the first `aligned` * B rows are that many stacks of B texts, text i with image i.
    crossed: image number of each remaining row [R - aligned * B]; None when there are none.
    """

    aligned: int = 1
    crossed: Tensor | None = None


@dataclass(frozen=True)
class LayerContext:
    """What a layer reads beside its own states."""

    mask: Tensor | None  # [R, 1, 1, T] True = word; None where texts are packed
    images: ImageKeysValues | None = None
    pairing: Pairing | None = None  # None = each text with its own image
    cls_only: bool = False
    packing: Packing | None = None
    keys_values: tuple[Tensor, Tensor] | None = None  # those of `images` for this layer

    def at(self, number: int) -> "LayerContext":
        """What layer `number` reads. The same for all layers but for tensors, so that one compiled layer serves all."""
        return self if self.images is None else replace(self, images=None, keys_values=self.images.layers[number])

    def queries(self, states: Tensor) -> Tensor:
        """The states that a layer updates: all, or CLS of each text ([R, 1, D]; packed [R, D])."""
        if not self.cls_only:
            return states
        return states[:, :1] if self.packing is None else states.index_select(0, self.packing.first)

    def packed(self) -> Attends | None:
        """What packed queries attend to; None where texts are padded."""
        if self.packing is None:
            return None
        return self.packing.cls if self.cls_only else self.packing.words


def attend_to_images(query: Tensor, keys: Tensor, values: Tensor, pairing: Pairing, dropout: float) -> Tensor:
    """Cross-attention of text queries [R, A, T, d] to the images they are paired with.

    keys and values are [B, A, N, d]; returns [R, A, T, d].
    """
    images, stacks = keys.shape[0], pairing.aligned
    own = query[: stacks * images].unflatten(0, (stacks, images))  # [S, B, A, T, d]
    own = own.permute(1, 2, 0, 3, 4)  # [B, A, S, T, d]
    attended = attend(own.flatten(2, 3), keys, values, dropout=dropout)
    attended = attended.unflatten(2, own.shape[2:4]).permute(2, 0, 1, 3, 4).flatten(0, 1)
    if pairing.crossed is None:
        return attended
    crossed = attend_indexed(query[stacks * images :], keys, values, pairing.crossed, dropout)
    return torch.cat([attended, crossed])


class Projections(nn.Module):
    """Query, key and value projections; keys and values may come from another width."""

    def __init__(self, width: int, source_width: int):
        super().__init__()
        self.query = Linear(width, width)
        self.key = Linear(source_width, width)
        self.value = Linear(source_width, width)


class PostNorm(nn.Module):
    """Dense, dropout, residual, LayerNorm: the end of each BERT sub-layer."""

    def __init__(self, inner: int, size: FusionSize):
        super().__init__()
        self.dense = Linear(inner, size.hidden_size)
        self.LayerNorm = nn.LayerNorm(size.hidden_size, eps=size.layer_norm_eps)
        self.dropout = Dropout(size.hidden_dropout_prob)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        """inner [R, T, inner width], residual [R, T, D] -> [R, T, D]."""
        return self.LayerNorm(self.dropout(self.dense(inner)) + residual)


class Attention(nn.Module):
    """Multi-head attention with BERT's names; `source_width` differs for cross-attention."""

    def __init__(self, size: FusionSize, source_width: int):
        super().__init__()
        self.heads = size.num_attention_heads
        self.dropout = size.attention_probs_dropout_prob
        self.self = Projections(size.hidden_size, source_width)
        self.output = PostNorm(size.hidden_size, size)

    def split(self, states: Tensor) -> Tensor:
        """[R, T, D] -> [R, A, T, D / A]."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project_source(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `source` [B, N, W]: two of [B, A, N, D / A]."""
        source = cast_once(source)
        return self.split(self.self.key(source)), self.split(self.self.value(source))

    def merge(self, attended: Tensor, residual: Tensor) -> Tensor:
        """Join the heads: attended [R, A, T, D / A], residual [R, T, D] -> [R, T, D]."""
        return self.output(attended.transpose(1, 2).flatten(2), residual)

    def to_text(self, source: Tensor, context: LayerContext) -> Tensor:
        """Self-attention of the queries that the context asks for among `source` [R, T, D] to all of it: [R, T', D]."""
        states, source = context.queries(source), cast_once(source)
        query, keys, values = self.self.query(context.queries(source)), self.self.key(source), self.self.value(source)
        if attends := context.packed():
            query, keys, values = (part.unflatten(-1, (self.heads, -1)) for part in (query, keys, values))
            return self.output(attend_segments(query, keys, values, attends.text).flatten(1), states)
        query, keys, values = (self.split(part) for part in (query, keys, values))
        return self.merge(attend(query, keys, values, context.mask, self.dropout * self.training), states)

    def to_images(self, states: Tensor, keys: Tensor, values: Tensor, pairing: Pairing) -> Tensor:
        """Cross-attention of states [R, T, D] to projected images: [R, T, D]."""
        query, dropout = self.split(self.self.query(states)), self.dropout * self.training
        return self.merge(attend_to_images(query, keys, values, pairing, dropout), states)

    def to_packed_images(self, states: Tensor, keys: Tensor, values: Tensor, images: Segments) -> Tensor:
        """Cross-attention of packed states [S, D] to projected images [B, A, N, D / A]: [S, D]."""
        query = self.self.query(states).unflatten(-1, (self.heads, -1))
        keys, values = (part.transpose(1, 2).flatten(0, 1) for part in (keys, values))  # [B * N, A, D / A]
        return self.output(attend_segments(query, keys, values, images).flatten(1), states)


class Intermediate(nn.Module):
    """The first half of a feed-forward network: dense, GELU."""

    def __init__(self, size: FusionSize):
        super().__init__()
        self.dense = Linear(size.hidden_size, size.intermediate_size)
        self.act = GELU()

    def forward(self, states: Tensor) -> Tensor:
        """[R, T, D] -> [R, T, intermediate width]."""
        return self.act(self.dense(states))


class Layer(nn.Module):
    """Self-attention, cross-attention when images are given, feed-forward; post-norm."""

    def __init__(self, size: FusionSize, number: int):
        super().__init__()
        self.attention = Attention(size, size.hidden_size)
        if size.has_cross_attention(number):
            self.crossattention = Attention(size, size.encoder_width)
        self.intermediate = Intermediate(size)
        self.output = PostNorm(size.intermediate_size, size)

    def forward(self, states: Tensor, context: LayerContext) -> Tensor:
        """[R, T, D] -> [R, T, D], or [R, 1, D] when only CLS is asked for."""
        return self.after_self_attention(self.attend_to_text(states, context), context)

    def attend_to_text(self, states: Tensor, context: LayerContext) -> Tensor:
        """Self-attention, the part that does not depend on an image."""
        return self.attention.to_text(states, context)

    def after_self_attention(self, states: Tensor, context: LayerContext) -> Tensor:
        """What follows self-attention."""
        if context.keys_values is not None and (attends := context.packed()):
            states = self.crossattention.to_packed_images(states, *context.keys_values, attends.image)
        elif context.keys_values is not None:
            states = self.crossattention.to_images(states, *context.keys_values, context.pairing or Pairing())
        return self.feed_forward(states)

    def feed_forward(self, states: Tensor) -> Tensor:
        """What follows all attention."""
        return self.output(self.intermediate(states), states)


class Embeddings(nn.Module):
    """Words, positions and the one token type there is, normed."""

    position_ids: Tensor

    def __init__(self, size: FusionSize):
        super().__init__()
        # padding_idx: look-ups of the padding row leave no gradient
        self.word_embeddings = nn.Embedding(size.vocab_size, size.hidden_size, padding_idx=size.pad_token_id)
        self.position_embeddings = nn.Embedding(size.max_position_embeddings, size.hidden_size)
        self.token_type_embeddings = nn.Embedding(size.type_vocab_size, size.hidden_size)
        self.LayerNorm = nn.LayerNorm(size.hidden_size, eps=size.layer_norm_eps)
        self.dropout = Dropout(size.hidden_dropout_prob)
        self.register_buffer("position_ids", torch.arange(size.max_position_embeddings)[None])

    def forward(self, ids: Tensor) -> Tensor:
        """[R, T] -> [R, T, D]."""
        positions = self.position_embeddings(self.position_ids[:, : ids.shape[1]])
        states = self.word_embeddings(ids) + positions + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(states))


class Layers(nn.Module):
    """All layers, under BERT's name for them."""

    def __init__(self, size: FusionSize):
        super().__init__()
        self.layer = nn.ModuleList(Layer(size, number) for number in range(size.num_hidden_layers))


class Bert(nn.Module):
    """Embeddings and layers, under BERT's names."""

    def __init__(self, size: FusionSize):
        super().__init__()
        self.embeddings = Embeddings(size)
        self.encoder = Layers(size)


class HeadTransform(nn.Module):
    """Dense, GELU, LayerNorm: what comes before vocabulary logits."""

    def __init__(self, size: FusionSize):
        super().__init__()
        self.dense = Linear(size.hidden_size, size.hidden_size)
        self.act = GELU()
        self.LayerNorm = nn.LayerNorm(size.hidden_size, eps=size.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.LayerNorm(self.act(self.dense(states)))


class Predictions(nn.Module):
    """Vocabulary logits; the decoder is tied to the word embeddings, its bias has two names."""

    def __init__(self, size: FusionSize, word_embeddings: nn.Embedding):
        super().__init__()
        self.transform = HeadTransform(size)
        self.decoder = Linear(size.hidden_size, size.vocab_size)
        self.decoder.weight = word_embeddings.weight
        nn.init.zeros_(self.decoder.bias)
        self.bias = self.decoder.bias

    def forward(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self.decoder(self.transform(states))


class MaskedLanguageHead(nn.Module):
    """Vocabulary logits, under BERT's name for them."""

    def __init__(self, size: FusionSize, word_embeddings: nn.Embedding):
        super().__init__()
        self.predictions = Predictions(size, word_embeddings)


class TextEncoder(nn.Module):
    """Text and fusion encoder with its masked-language head, under BERT's parameter names."""

    def __init__(self, size: FusionSize, gradient_checkpointing: bool = False):
        super().__init__()
        self.size = size
        self.gradient_checkpointing = gradient_checkpointing
        self.bert = Bert(size)
        self.apply(self.initialise)
        self.cls = MaskedLanguageHead(size, self.bert.embeddings.word_embeddings)
        self.cls.predictions.transform.apply(self.initialise)

    def initialise(self, module: nn.Module) -> None:
        """BERT's normal initialisation; the padding row starts at zero."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.size.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    @property
    def layers(self) -> list[Layer]:
        """BERT's layers, the first one first."""
        return cast("list[Layer]", self.bert.encoder.layer)

    def run(self, states: Tensor, layers: range, context: LayerContext, attended: bool = False) -> Tensor:
        """Layers `layers` on states [R, T, D]; attended: the self-attention of the first one is done."""
        for number in layers:
            layer = self.layers[number]
            part = layer.after_self_attention if attended and number == layers.start else layer
            states = self.call(part, states, context.at(number))
        return states

    def call(self, part: Callable[..., Tensor], states: Tensor, context: LayerContext) -> Tensor:
        """A layer or part of one; with gradient checkpointing, its inner results are not kept."""
        if self.gradient_checkpointing and self.training:
            return checkpoint(part, states, context, use_reentrant=False)
        return part(states, context)

    def encode_prefix(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What text-only and multi-modal passes have in common: [R, T] -> [R, T, D].

        ids are token ids, mask is True on words. The layers below the first one with cross-attention;
        when that is layer 0, its self-attention.
        """
        context = LayerContext(mask[:, None, None])
        states = self.run(self.bert.embeddings(ids), range(self.size.first_cross_layer), context)
        return self.call(self.layers[0].attend_to_text, states, context) if self.size.full_ca else states

    def run_below(self, text_prefix: Tensor, end: int, context: LayerContext) -> Tensor:
        """From where `encode_prefix` stopped through the layers below `end`."""
        return self.run(text_prefix, range(self.size.first_cross_layer, end), context, attended=self.size.full_ca)

    def encode_text(self, text_prefix: Tensor, mask: Tensor) -> Tensor:
        """Text-only states [R, T, D]: layers below `fusion_layer`, without cross-attention."""
        return self.run_below(text_prefix, self.size.fusion_layer, LayerContext(mask[:, None, None]))

    def project_images(self, image_tokens: Tensor) -> ImageKeysValues:
        """Project image tokens [B, N, W] to the keys and values of every layer."""
        numbers = range(self.size.first_cross_layer, self.size.num_hidden_layers)
        projected = {n: self.layers[n].crossattention.project_source(image_tokens) for n in numbers}
        return ImageKeysValues({n: (in_order(keys), in_order(values)) for n, (keys, values) in projected.items()})

    def fuse(
        self, text_prefix: Tensor, mask: Tensor, images: ImageKeysValues, pairing: Pairing, cls_only: bool = False
    ) -> Tensor:
        """Multi-modal states [R, T, D] of texts and the images they are paired with; [R, 1, D] with `cls_only`.

        text_prefix comes from `encode_prefix`, mask [R, T] is True on words.
        """
        return self.run_fusion(text_prefix, LayerContext(mask[:, None, None], images, pairing), cls_only)

    def fuse_packed(self, text_prefix: Tensor, packing: Packing, images: ImageKeysValues) -> Tensor:
        """Multi-modal CLS states [R, D] of texts, packed as text_prefix [S, D], and their images."""
        return self.run_fusion(text_prefix, LayerContext(None, images, packing=packing), cls_only=True)

    def run_fusion(self, text_prefix: Tensor, context: LayerContext, cls_only: bool) -> Tensor:
        """All layers from where `encode_prefix` stopped; the last one updates CLS alone with `cls_only`."""
        last = self.size.num_hidden_layers - 1
        states = self.run_below(text_prefix, last, context)
        return self.run(states, range(last, last + 1), replace(context, cls_only=cls_only))

    def vocabulary_logits(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self.cls.predictions(states)
