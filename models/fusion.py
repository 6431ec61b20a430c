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
from models.kernels import GELU, Dropout, Linear, attend, by_one_product, cast_once, in_order
from models.packing import Attends, Packing
from models.pairing import Pairing, attend_to_images

Layout = Tensor | Packing  # of texts: the mask [R, T] of padded ones, True = word; or how they are packed


@dataclass(frozen=True)
class ImageKeysValues:
    """Keys and values of B images, projected once for every layer with cross-attention.

    layers: layer number -> (keys, values), each [B, A, N, D / A].
    """

    layers: dict[int, tuple[Tensor, Tensor]]

    @property
    def shape(self) -> tuple[int, int]:
        """(B, N)."""
        keys, _ = next(iter(self.layers.values()))
        return keys.shape[0], keys.shape[2]


@dataclass(frozen=True)
class LayerContext:
    """What a layer reads beside its own states."""

    mask: Tensor | None  # [R, 1, 1, T] True = word; None where texts are packed
    images: ImageKeysValues | None = None
    pairing: Pairing | None = None  # None = each text with its own image
    cls_only: bool = False
    packing: Packing | None = None
    keys_values: tuple[Tensor, Tensor] | None = None  # those of `images` for this layer

    @classmethod
    def of(
        cls, layout: Layout, images: ImageKeysValues | None = None, pairing: Pairing | None = None
    ) -> "LayerContext":
        """Texts that lie so, and the images that they attend to; pairing: of padded ones, as above."""
        if isinstance(layout, Packing):
            return cls(None, images, packing=layout)
        return cls(layout[:, None, None], images, pairing)

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


def joins_products(states: Tensor) -> bool:
    """Whether layers that read the same `states` are one product: on a GPU; the caches of a CPU do not hold it."""
    return states.device.type == "cuda"


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
        own = self.self
        if joins_products(source) and not context.cls_only:
            query, keys, values = by_one_product([own.query, own.key, own.value], source)
        else:
            query, keys, values = own.query(context.queries(source)), own.key(source), own.value(source)
        dropout = self.dropout * self.training
        if attends := context.packed():
            query, keys, values = (part.unflatten(-1, (self.heads, -1)) for part in (query, keys, values))
            return self.output(attends.to_text(query, keys, values, dropout).flatten(1), states)
        query, keys, values = (self.split(part) for part in (query, keys, values))
        return self.merge(attend(query, keys, values, context.mask, dropout), states)

    def to_images(self, states: Tensor, keys: Tensor, values: Tensor, context: LayerContext) -> Tensor:
        """Cross-attention of states [R, T, D], packed [S, D], to projected images [B, A, N, D / A]: as states."""
        query, dropout = self.self.query(states), self.dropout * self.training
        if attends := context.packed():
            query = query.unflatten(-1, (self.heads, -1))
            return self.output(attends.to_images(query, keys, values, dropout).flatten(1), states)
        pairing = context.pairing or Pairing()
        return self.merge(attend_to_images(self.split(query), keys, values, pairing, dropout), states)


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
        if context.keys_values is not None:
            states = self.crossattention.to_images(states, *context.keys_values, context)
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

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """[R, T] -> [R, T, D], or packed [S] -> [S, D] with the position [S] of each token in its text."""
        positions = self.position_ids[:, : ids.shape[1]] if positions is None else positions
        states = self.word_embeddings(ids) + self.position_embeddings(positions) + self.token_type_embeddings.weight[0]
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

    def encode_prefix(self, ids: Tensor, layout: Layout) -> Tensor:
        """What text-only and multi-modal passes have in common: token ids [R, T] -> [R, T, D]; packed [S] -> [S, D].

        The layers below the first one with cross-attention; when that is layer 0, its self-attention.
        """
        context = LayerContext.of(layout)
        positions = layout.positions if isinstance(layout, Packing) else None
        states = self.run(self.bert.embeddings(ids, positions), range(self.size.first_cross_layer), context)
        return self.call(self.layers[0].attend_to_text, states, context) if self.size.full_ca else states

    def run_below(self, text_prefix: Tensor, end: int, context: LayerContext) -> Tensor:
        """From where `encode_prefix` stopped through the layers below `end`."""
        return self.run(text_prefix, range(self.size.first_cross_layer, end), context, attended=self.size.full_ca)

    def encode_text(self, text_prefix: Tensor, layout: Layout) -> Tensor:
        """Text-only states, shaped as text_prefix: layers below `fusion_layer`, without cross-attention."""
        return self.run_below(text_prefix, self.size.fusion_layer, LayerContext.of(layout))

    def project_images(self, image_tokens: Tensor) -> ImageKeysValues:
        """Project image tokens [B, N, W] to the keys and values of every layer."""
        numbers = range(self.size.first_cross_layer, self.size.num_hidden_layers)
        parts = [self.layers[number].crossattention for number in numbers]
        if joins_products(image_tokens):
            layers = [layer for part in parts for layer in (part.self.key, part.self.value)]
            heads = [parts[0].split(one) for one in by_one_product(layers, cast_once(image_tokens))]
            pairs = list(zip(heads[::2], heads[1::2], strict=True))
        else:
            pairs = [part.project_source(image_tokens) for part in parts]
        ordered = ((in_order(keys), in_order(values)) for keys, values in pairs)
        return ImageKeysValues(dict(zip(numbers, ordered, strict=True)))

    def fuse(
        self,
        text_prefix: Tensor,
        layout: Layout,
        images: ImageKeysValues,
        pairing: Pairing | None = None,
        cls_only: bool = False,
    ) -> Tensor:
        """Multi-modal states of texts and images, shaped as text_prefix, which comes from `encode_prefix`.

        pairing: of padded texts and images; None = text i with image i. cls_only: those of CLS alone, [R, 1, D], or
        [R, D] where texts are packed.
        """
        context, last = LayerContext.of(layout, images, pairing), self.size.num_hidden_layers - 1
        states = self.run_below(text_prefix, last, context)
        return self.run(states, range(last, last + 1), replace(context, cls_only=cls_only))

    def vocabulary_logits(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self.cls.predictions(states)
