"""A training step as the published code computes it: a pass per loss, each with its own projection of the
images, all captions padded, attention by plain products, one parameter at a time in the momentum update.

The oracle that the product's step is compared with and timed against. It reads the parameters of a
`PersonSearchModel` and shares its losses and random draws, but none of its encoders.

Letters: B batch, R rows, N image tokens, T text tokens, D width, A heads, V vocabulary.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import gelu, linear, normalize, softmax

from dataset.batch import TextTokens, TrainBatch
from models import losses
from models.decoder import GEGLU, DecoderBlock, VisualDecoder, fill_removed, patchify
from models.fusion import Attention, PostNorm, TextEncoder
from models.fusion_batch import TextPrefix
from models.image_encoder import ImageEncoder, PatchSubset, take_tokens
from models.losses import Mean
from models.objectives import LOSSES
from models.person_search import PersonSearchModel, negative_weights
from models.randomness import RandomDraws
from models.training_step import Embeddings, Negatives, QueueEntry, Reading, TrainingStep
from models.vision_transformer import Block, VisionTransformer


def attention(
    query: Tensor, keys: Tensor, values: Tensor, heads: int, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """query [R, T, D], keys and values [R, N, D], mask [R, N] True = word -> [R, T, D]."""
    query, keys, values = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, keys, values))
    scores = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    return (drop(softmax(scores, dim=-1), dropout) @ values).transpose(1, 2).flatten(2)


def dense(layer: nn.Linear, states: Tensor) -> Tensor:
    """torch's own product, whatever the product's layers do."""
    return linear(states, layer.weight, layer.bias)


def encode_image(encoder: ImageEncoder, image: Tensor, keep: PatchSubset | None = None) -> Tensor:
    """Images [B, 3, H, W] -> tokens [B, N, D]; of the kept patches alone with `keep`."""
    assert isinstance(encoder, VisionTransformer), "the published step is that of a ViT"
    tokens = encoder.patch_embed(image) + encoder.pos_embed[:, 1:]
    if keep is not None:
        tokens = take_tokens(tokens, keep.kept)
    cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(tokens), -1, -1)
    tokens = torch.cat([cls, tokens], dim=1)
    for block in cast("list[Block]", encoder.blocks):
        query, keys, values = dense(block.attn.qkv, block.norm1(tokens)).chunk(3, dim=-1)
        tokens = tokens + dense(block.attn.proj, attention(query, keys, values, block.attn.heads))
        tokens = tokens + dense(block.mlp.fc2, gelu(dense(block.mlp.fc1, block.norm2(tokens))))
    return encoder.norm(tokens)


def bert_attention(layer: Attention, states: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
    """A sub-layer of BERT: `states` [R, T, D] ask `source` [R, N, W]; post-norm."""
    parts = dense(layer.self.query, states), dense(layer.self.key, source), dense(layer.self.value, source)
    seen = attention(*parts, layer.heads, mask, layer.dropout * layer.training)
    return post_norm(layer.output, seen, states)


def post_norm(end: PostNorm, inner: Tensor, residual: Tensor) -> Tensor:
    """The end of a sub-layer of BERT."""
    return end.LayerNorm(drop(dense(end.dense, inner), end.dropout.p, end.training) + residual)


def read(encoder: TextEncoder, ids: Tensor, mask: Tensor, image: Tensor | None, layers: range) -> Tensor:
    """Token ids [R, T], mask True = word, image tokens [R, N, W] or None -> states [R, T, D]."""
    states = encoder.bert.embeddings(ids)
    for number in layers:
        layer = encoder.layers[number]
        states = bert_attention(layer.attention, states, states, mask)
        if image is not None and encoder.size.has_cross_attention(number):
            states = bert_attention(layer.crossattention, states, image, None)
        states = post_norm(layer.output, gelu(dense(layer.intermediate.dense, states)), states)
    return states


def read_text(encoder: TextEncoder, text: TextTokens) -> Tensor:
    """Text-only states [B, T, D]."""
    return read(encoder, text.ids, text.mask, None, range(encoder.size.fusion_layer))


def fuse(encoder: TextEncoder, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    """Multi-modal states [R, T, D]."""
    return read(encoder, ids, mask, image, range(encoder.size.num_hidden_layers))


def decode(decoder: VisualDecoder, tokens: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Image tokens [B, N, D] look at text states [B, T, W]: [B, N, D]."""
    for block in cast("list[DecoderBlock]", decoder.blocks):
        for name, norm in (("attn1", block.norm1), ("attn2", block.norm2)):
            layer, normed = getattr(block, name), norm(tokens)
            source = normed if name == "attn1" else text
            parts = dense(layer.to_q, normed), dense(layer.to_k, source), dense(layer.to_v, source)
            seen = attention(*parts, layer.heads, None if name == "attn1" else mask)
            tokens = tokens + dense(cast(nn.Linear, layer.to_out[0]), seen)
        value, gate = dense(cast(GEGLU, block.ff.net[0]).l, block.norm3(tokens)).chunk(2, dim=-1)
        tokens = tokens + dense(cast(nn.Linear, block.ff.net[2]), value * gelu(gate))
    return tokens


def embed(projection: nn.Module, tokens: Tensor) -> Tensor:
    return normalize(projection(tokens[:, 0]), dim=-1)


class PublishedStep:
    """The losses of one batch, each with the passes that the published code makes for it."""

    def __init__(self, model: PersonSearchModel, batch: TrainBatch, draws: RandomDraws, alpha: float):
        self.model, self.batch, self.draws, self.alpha = model, batch, draws, alpha

    def losses(self) -> dict[str, Tensor]:
        """Those that have a weight, by name, unweighted: in the published way where a method is named so, else by the
        function of the table on plain parts."""
        self.follow()
        self.embed()
        self.step.fused = self.fuse_pairs()
        names = self.model.objective.used
        found = {
            name: losses.value_of(getattr(self, name)() if hasattr(self, name) else LOSSES[name].compute(self.step))
            for name in names
        }
        self.model.enqueue(self.queued)
        return found

    @torch.no_grad()
    def follow(self) -> None:
        momentum, online = self.model.momentum_pairs()
        for mine, theirs in zip(momentum, online, strict=True):
            mine.data = mine.data * self.model.objective.momentum + theirs.data * (1 - self.model.objective.momentum)

    def embed(self) -> None:
        """Encodes the batch with both models, and draws negatives."""
        model, batch = self.model, self.batch
        self.image = encode_image(model.visual_encoder, batch.image1)
        text = read_text(model.text_encoder, batch.caption2)
        with torch.no_grad():
            self.image_m = encode_image(model.visual_encoder_m, batch.image2)
            text_m = read_text(model.text_encoder_m, batch.caption2)
            momentum = embed(model.vision_proj_m, self.image_m), embed(model.text_proj_m, text_m)
        online = embed(model.vision_proj, self.image), embed(model.text_proj, text)
        self.queued = QueueEntry(*momentum, batch.identity)
        self.step = TrainingStep(
            model=model,
            batch=batch,
            draws=self.draws,
            alpha=self.alpha,
            tokens=self.image,
            caption=Reading(batch.caption2, TextPrefix(text, batch.caption2.mask), text, online[1]),
            embeddings=Embeddings(*online, *momentum),
            everyone=self.queued,
        )

    def fuse_pairs(self) -> dict[str, Tensor]:
        """A pass of the B positives, then one of the 2B negatives."""
        model, batch, text, given = self.model, self.batch, self.batch.caption2, self.step.embeddings
        with torch.no_grad():
            allowed = batch.identity[:, None] != batch.identity
            image_weights = negative_weights(given.text @ given.image_m.T / model.temp, allowed)
            text_weights = negative_weights(given.image @ given.text_m.T / model.temp, allowed)
            images, texts = self.draws.hard_negatives(image_weights, text_weights)
        self.step.negatives = Negatives(images, texts, allowed.any(1))
        positive = fuse(model.text_encoder, text.ids, text.mask, self.image)
        ids, mask = torch.cat([text.ids, text.ids[texts]]), torch.cat([text.mask, text.mask[texts]])
        negative = fuse(model.text_encoder, ids, mask, torch.cat([self.image[images], self.image]))
        with_image, with_text = negative.chunk(2)
        return {"positive": positive, "negative_image": with_image, "negative_text": with_text}

    def cl(self) -> Tensor:
        model, batch, given = self.model, self.batch, self.step.embeddings
        online, momentum = {"i": given.image, "t": given.text}, {"i": given.image_m, "t": given.text_m}
        queues = {"i": model.image_queue.T.clone(), "t": model.text_queue.T.clone()}
        same = losses.identity_targets(batch.identity, torch.cat([batch.identity, model.idx_queue[0]]))
        terms = []
        for query, _, key in model.objective.contrastive_terms:
            keys = torch.cat([momentum[key], queues[key]])
            pair = online[query] @ keys.T, momentum[query] @ keys.T
            terms.append(losses.contrastive_term(*pair, same, model.temp, self.alpha))
        return torch.stack(terms).mean()

    def logits(self, encoder: TextEncoder, ids: Tensor, image: Tensor) -> Tensor:
        """Vocabulary logits [B, T, V] of every position."""
        head, states = encoder.cls.predictions, fuse(encoder, ids, self.batch.caption.mask, image)
        transformed = head.transform.LayerNorm(gelu(dense(head.transform.dense, states)))
        return linear(transformed, encoder.bert.embeddings.word_embeddings.weight, head.bias)

    def mlm(self) -> Mean:
        model = self.model
        drawn = self.draws.masked_tokens(self.batch.caption, "mlm", model.objective.mlm_probability)
        with torch.no_grad():
            teacher = self.logits(model.text_encoder_m, drawn.ids, self.image_m)
        student = self.logits(model.text_encoder, drawn.ids, self.image)
        return losses.masked_language(student, drawn.labels, teacher, self.alpha, model.objective.mlm_distill_axis)

    def mrtd(self) -> Mean:
        model, caption = self.model, self.batch.caption
        drawn = self.draws.masked_tokens(caption, "mrtd", model.objective.mrtd_mask_probability)
        with torch.no_grad():
            sampled = self.draws.sampled_tokens(self.logits(model.text_encoder_m, drawn.ids, self.image_m))
        words = model.label_replaced(caption, sampled)
        states = fuse(model.text_encoder, words.ids, caption.mask, self.image)
        return losses.token_replaced(self.step.head("mrtd_head")(states), words.labels)

    def mae(self) -> Mean:
        model = self.model
        keep = PatchSubset.from_noise(self.draws.patch_noise(), model.objective.mask_ratio)
        visible = encode_image(model.visual_encoder, self.batch.image1, keep)
        tokens = fill_removed(visible, keep, model.mask_token) + model.visual_decoder_pos_embed
        tokens = decode(model.visual_decoder, tokens, self.step.caption.states, self.batch.caption2.mask)
        target = patchify(self.batch.image1, model.patch_size)
        return losses.reconstruction(dense(model.decoder_pred, tokens[:, 1:]), target, keep.removed)
