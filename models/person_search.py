"""The person search model: ALBEF, RaSa and MARS by configuration.

Letters: B batch, N image tokens (1 + L), L patches, T text tokens, D width, E embedding,
V vocabulary, C attributes of a caption.

A training step, in the order of `forward`: both models embed images and captions; contrastive
loss; hard negatives; masked and replaced words; one fusion of all rows with the images; pixels.
The result is a dict of unweighted losses by the names of the weights. `forward` changes nothing:
a step that turns out to be useless leaves no trace. After one that was taken, `advance` moves
queues and momentum model on. To add a loss: its function and name in `losses.py`, a method here,
its weight in the configuration.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softmax

from dataset.batch import SpecialTokens, TextTokens, TrainBatch
from models import losses
from models.decoder import DecoderSize, VisualDecoder, fill_removed, patchify
from models.fusion import FusionSize, ImageKeysValues, Pairing, TextEncoder
from models.fusion_batch import FusionRows
from models.image_encoder import ImageEncoder, PatchSubset
from models.linear import Linear
from models.momentum import Momentum
from models.randomness import MaskedTokens, RandomDraws
from models.recompute import bytes_of, recomputed
from utils.precision import full_precision
from utils.processes.distributed import gather_rows, gather_with_gradient, mean_over_processes


@dataclass(frozen=True)
class Objective:
    """What is learned, beside the sizes of the networks.

    weights: loss name -> weight; a loss of weight 0 is not computed and its parts not built.
    contrastive_keys: "momentum" compares with momentum embeddings of batch and queue (ALBEF);
    "online" with the batch itself, gradient on both sides and identities alone as targets
    (CLIP): the quicker way to learn from nothing.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(losses.LOSS_NAMES, 1.0))
    temp: float = 0.07
    momentum: float = 0.995
    queue_size: int = 65536
    mask_ratio: float = 0.75
    mlm_probability: float = 0.15
    mrtd_mask_probability: float = 0.3
    mlm_distill_axis: str = "vocabulary"
    contrastive_terms: tuple[str, ...] = losses.CONTRASTIVE_TERMS
    contrastive_keys: str = "momentum"

    def uses(self, *names: str) -> bool:
        """Whether any of these losses has a weight."""
        return any(self.weights.get(name, 0) > 0 for name in names)


@dataclass(frozen=True)
class Reading:
    """A caption on its way through the text encoder.

    text_prefix [B, T, D]: what fusion starts from; states [B, T, D]: text-only states;
    embedding [B, E], normalised.
    """

    tokens: TextTokens
    text_prefix: Tensor
    states: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class Embedded:
    """Normalised embeddings [B, E] of a batch: online and momentum, image and text."""

    image: Tensor
    text: Tensor
    image_m: Tensor
    text_m: Tensor


@dataclass(frozen=True)
class Negatives:
    """Hard negatives: image [B] for each text, text [B] for each image; valid [B] False = none exists."""

    image: Tensor
    text: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Words:
    """A caption with some words masked or replaced.

    ids, labels [B, T]; chosen [M]: flat positions of the masked words, and some others up to a
    number known beforehand; teacher [B, T, V] or None.
    """

    ids: Tensor
    labels: Tensor
    chosen: Tensor | None = None
    teacher: Tensor | None = None


def embed(projection: nn.Linear, tokens: Tensor) -> Tensor:
    """Normalised float32 projection of CLS: [B, N, D] -> [B, E]."""
    return normalize(projection(tokens[:, 0]).float(), dim=-1)


def similarities(queries: Tensor | None, keys: list[Tensor]) -> Tensor | None:
    """[B, E] to all keys of several [E, M], side by side; a queue is not copied for it."""
    return None if queries is None else torch.cat([queries @ part for part in keys], dim=1)


@torch.no_grad()
def balanced(head: nn.Linear) -> nn.Linear:
    """Start the two logits of a head as opposites, which gradients of cross-entropy keep them.

    Ranking takes the match logit alone; what both logits share would be noise in it that nothing trains away.
    """
    head.weight[0], head.bias[0] = -head.weight[1], -head.bias[1]
    return head


def negative_weights(logits: Tensor, allowed: Tensor) -> Tensor:
    """Softmax of each row [B, B] over its allowed pairs; a row without any is all 0.

    Excluded before the softmax: beside a sure positive, all others may round to 0 at a low temperature.
    """
    return softmax(logits.float().masked_fill(~allowed, -torch.inf), dim=1).nan_to_num(0)


def masked_first(drawn: MaskedTokens) -> Tensor:
    """Flat positions [at_most] of the masked words of captions, then of others."""
    return (drawn.labels != losses.IGNORED).flatten().byte().argsort(descending=True, stable=True)[: drawn.at_most]


class PersonSearchModel(Momentum, nn.Module):
    """Image encoder, text and fusion encoder, momentum copies, queues, heads and decoder."""

    def __init__(
        self,
        visual_encoder: ImageEncoder,
        fusion: FusionSize,
        decoder: DecoderSize,
        objective: Objective,
        special: SpecialTokens,
        embed_dim: int = 256,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        vision = visual_encoder.size
        self.patch_size, self.grid = vision.patch_size, vision.grid
        self.objective, self.special = objective, special
        self.visual_encoder = visual_encoder
        self.text_encoder = TextEncoder(fusion, gradient_checkpointing)
        self.vision_proj = nn.Linear(vision.width, embed_dim)
        self.text_proj = nn.Linear(fusion.hidden_size, embed_dim)
        self.temp = nn.Parameter(torch.tensor(objective.temp))
        self.itm_head = balanced(nn.Linear(fusion.hidden_size, 2))
        if objective.uses("prd"):
            self.prd_head = nn.Linear(fusion.hidden_size, 2)
        if objective.uses("mrtd"):
            self.mrtd_head = nn.Linear(fusion.hidden_size, 2)
        if objective.uses("mae"):
            self.build_decoder(decoder, fusion.hidden_size, gradient_checkpointing)
        self.build_momentum()
        self.build_queues(embed_dim, objective.queue_size)

    def build_decoder(self, size: DecoderSize, text_width: int, gradient_checkpointing: bool) -> None:
        vision = self.visual_encoder.size
        self.visual_decoder = VisualDecoder(size, vision.width, text_width, gradient_checkpointing)
        self.mask_token = nn.Parameter(torch.empty(1, 1, vision.width))
        self.visual_decoder_pos_embed = nn.Parameter(torch.empty(1 + vision.patches, vision.width))
        self.decoder_pred = Linear(vision.width, vision.patch_size**2 * 3)
        for tensor in (self.mask_token, self.visual_decoder_pos_embed):
            nn.init.trunc_normal_(tensor, std=0.02)

    def undecayed(self) -> set[str]:
        """Names of parameters that weight decay leaves alone, beyond those of one dimension and biases."""
        names = self.visual_encoder.undecayed
        return {
            f"visual_encoder.{name}"
            for name, _ in self.visual_encoder.named_parameters()
            if name.rpartition(".")[2] in names
        }

    def asks_momentum(self, alpha: float) -> bool:
        """Whether a loss looks at the momentum model; MLM does for soft targets alone."""
        if self.objective.contrastive_keys == "momentum" or self.objective.uses("pitm", "mrtd", "attribute"):
            return True
        return self.distils_words(alpha)

    def distils_words(self, alpha: float) -> bool:
        """Whether MLM learns from the momentum model's opinion."""
        return alpha > 0 and self.objective.uses("mlm")

    # ---- encoding ----------------------------------------------------------------------

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [B, 3, H, W] -> tokens [B, N, D] and embeddings [B, E]."""
        tokens = self.visual_encoder(image)
        return tokens, embed(self.vision_proj, tokens)

    def encode_text(self, text: TextTokens) -> Reading:
        """A caption read without images."""
        text_prefix = self.text_encoder.encode_prefix(text.ids, text.mask)
        states = self.text_encoder.read(text_prefix, text.mask)
        return Reading(text, text_prefix, states, embed(self.text_proj, states))

    def match_scores(self, text_prefix: Tensor, mask: Tensor, memory: ImageKeysValues, pairing: Pairing) -> Tensor:
        """ITM match logits [R] of texts (from `text_encoder.begin`) that look at images."""
        states = self.text_encoder.fuse(text_prefix, mask, memory, pairing, cls_only=True)
        return self.match_logits(states[:, 0])[:, 1]

    def match_logits(self, states: Tensor) -> Tensor:
        """ITM logits [..., 2] (no match, match) of multi-modal states [..., D], in float32.

        bfloat16 would round scores to steps of 0.01 and make ties of close ones.
        """
        with full_precision(states):
            return self.itm_head(states.float())

    @torch.no_grad()
    def encode_momentum(self, image: Tensor, text: TextTokens) -> tuple[Tensor, Tensor, Tensor]:
        """The momentum model's image tokens, image embeddings and text embeddings."""
        tokens = self.visual_encoder_m(image)
        text_prefix = self.text_encoder_m.encode_prefix(text.ids, text.mask)
        states = self.text_encoder_m.read(text_prefix, text.mask)
        return tokens, embed(self.vision_proj_m, tokens), embed(self.text_proj_m, states)

    # ---- a training step ---------------------------------------------------------------

    def forward(
        self,
        batch: TrainBatch,
        draws: RandomDraws,
        alpha: float,
        first: bool = True,
        negatives_within: int | None = None,
    ) -> dict[str, Tensor]:
        """Losses by name for a batch on this device, images normalised.

        alpha: share of the momentum model's opinion in soft targets. first: of its step, so what an
        abandoned step left for the queues is dropped. negatives_within: draw hard negatives among
        groups of so many consecutive samples; None = all samples of the process.
        """
        if first:
            self.waiting.clear()
        tokens, image = self.encode_image(batch.image1)
        reading = self.encode_text(batch.caption2)
        tokens_m, image_m, text_m = None, image.detach(), reading.embedding.detach()
        if self.asks_momentum(alpha):
            tokens_m, image_m, text_m = self.encode_momentum(batch.image2, batch.caption2)
        embedded = Embedded(image, reading.embedding, image_m, text_m)

        found: dict[str, Tensor] = {}
        if self.objective.uses("cl"):
            with full_precision(image):
                found["cl"] = self.contrast(embedded, batch.identity, alpha)
        self.waiting.append((image_m, text_m, batch.identity))
        if self.objective.uses("pitm", "mlm", "prd", "mrtd", "attribute"):
            with full_precision(image):
                negatives = self.draw_negatives(embedded, batch.identity, draws, negatives_within)
            words = self.prepare_words(batch.caption, tokens_m, draws, alpha)
            fused = self.fuse_rows(tokens, reading, batch.caption, negatives, words)
            found |= self.fusion_losses(fused, batch, negatives, words, alpha)
        if self.objective.uses("mae"):
            found["mae"] = self.reconstruct(batch.image1, reading, draws)
        return found

    def advance(self) -> None:
        """After an optimizer step: its embeddings enter the queues, and the momentum model follows."""
        self.write_queues()
        self.follow(self.objective.momentum)

    def contrast(self, embedded: Embedded, identity: Tensor, alpha: float) -> Tensor:
        """Mean of the contrastive loss over i2t, t2i (ALBEF), i2i and t2t (RaSa section 3.1)."""
        known, soft = gather_rows(identity), alpha > 0
        if self.objective.contrastive_keys == "online":
            soft = False
            keys = {"i": [gather_with_gradient(embedded.image).T], "t": [gather_with_gradient(embedded.text).T]}
        else:
            known = torch.cat([known, self.idx_queue[0]])
            keys = {
                "i": [gather_rows(embedded.image_m).T, self.image_queue],
                "t": [gather_rows(embedded.text_m).T, self.text_queue],
            }
        same = losses.identity_targets(identity, known)
        queries = {
            "i": (embedded.image, embedded.image_m if soft else None),
            "t": (embedded.text, embedded.text_m if soft else None),
        }
        terms = []
        for asks, answers in (term.split("2") for term in self.objective.contrastive_terms):
            online, momentum = (similarities(query, keys[answers]) for query in queries[asks])
            terms.append(losses.contrastive_term(online, momentum, same, self.temp, alpha))
        return torch.stack(terms).mean()

    @torch.no_grad()
    def draw_negatives(self, embedded: Embedded, identity: Tensor, draws: RandomDraws, within: int | None) -> Negatives:
        """One hard negative image per text and text per image, likelier the more similar (RaSa, p-ITM)."""
        allowed = identity[:, None] != identity[None, :]
        if within is not None:
            group = torch.arange(len(identity), device=identity.device) // within
            allowed &= group[:, None] == group[None, :]
        image_weights = negative_weights(embedded.text @ embedded.image_m.T / self.temp, allowed)
        text_weights = negative_weights(embedded.image @ embedded.text_m.T / self.temp, allowed)
        return Negatives(*draws.hard_negatives(image_weights, text_weights), allowed.any(1))

    @torch.no_grad()
    def prepare_words(
        self, caption: TextTokens, tokens_m: Tensor | None, draws: RandomDraws, alpha: float
    ) -> dict[str, Words]:
        """Masked words with the momentum model's opinion ("mlm"), and replaced words ("mrtd")."""
        chances = {"mlm": self.objective.mlm_probability, "mrtd": self.objective.mrtd_mask_probability}
        used = [name for name in chances if self.objective.uses(name)]
        drawn = {name: draws.masked_tokens(caption, name, chances[name]) for name in used}
        asked = [name for name in drawn if name == "mrtd" or self.distils_words(alpha)]
        opinions = self.momentum_words({name: drawn[name].ids for name in asked}, caption.mask, tokens_m)
        words: dict[str, Words] = {}
        if "mlm" in drawn:
            masked = drawn["mlm"]
            words["mlm"] = Words(masked.ids, masked.labels, masked_first(masked), opinions.get("mlm"))
        if "mrtd" in drawn:
            words["mrtd"] = self.label_replaced(caption, draws.sampled_tokens(opinions["mrtd"]))
        return words

    def momentum_words(self, ids: dict[str, Tensor], mask: Tensor, tokens_m: Tensor | None) -> dict[str, Tensor]:
        """The momentum model's vocabulary logits [B, T, V] for masked captions ids [B, T] by name, in one pass."""
        if not ids:
            return {}
        rows = FusionRows()
        for name, text_prefix in self.encode_prefixes(self.text_encoder_m, ids, mask).items():
            rows.add(name, text_prefix, mask)
        fused = rows.fuse(self.text_encoder_m, self.text_encoder_m.project_images(tokens_m))
        return {name: self.text_encoder_m.vocabulary_logits(states) for name, states in fused.items()}

    @staticmethod
    def encode_prefixes(encoder: TextEncoder, ids: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """Start the fusion of texts with ids [B, T] by name and one mask [B, T], in one pass: [B, T, D] by name."""
        text_prefix = encoder.encode_prefix(torch.cat(list(ids.values())), mask.repeat(len(ids), 1))
        return dict(zip(ids, text_prefix.chunk(len(ids)), strict=True))

    def label_replaced(self, caption: TextTokens, sampled: Tensor) -> Words:
        """m-RTD (RaSa section 3.2): keep [CLS], zero the padding; label 1 where a word differs."""
        ids = sampled.where(caption.mask, self.special.pad)
        ids = torch.cat([torch.full_like(ids[:, :1], self.special.cls), ids[:, 1:]], dim=1)
        labels = (ids != caption.ids).long()
        ignored = (ids == self.special.cls) | (ids == self.special.pad)
        return Words(ids, labels.masked_fill(ignored, losses.IGNORED))

    def fuse_rows(
        self, tokens: Tensor, reading: Reading, caption: TextTokens, negatives: Negatives, words: dict[str, Words]
    ) -> dict[str, Tensor]:
        """Multi-modal states [B, T, D] of every row that a loss asks for, by name."""
        rows, mask = FusionRows(), reading.tokens.mask
        if self.objective.uses("pitm", "prd", "attribute"):
            rows.add("positive", reading.text_prefix, mask)
        if self.objective.uses("pitm", "attribute"):
            rows.add("negative_text", reading.text_prefix[negatives.text], mask[negatives.text])
            rows.add_crossed("negative_image", reading.text_prefix, mask, negatives.image)
        if words:
            ids = {name: part.ids for name, part in words.items()}
            for name, text_prefix in self.encode_prefixes(self.text_encoder, ids, caption.mask).items():
                rows.add(name, text_prefix, caption.mask)
        return rows.fuse(self.text_encoder, self.text_encoder.project_images(tokens))

    def fusion_losses(
        self,
        fused: dict[str, Tensor],
        batch: TrainBatch,
        negatives: Negatives,
        words: dict[str, Words],
        alpha: float,
    ) -> dict[str, Tensor]:
        """The losses on multi-modal states."""
        found: dict[str, Tensor] = {}
        if self.objective.uses("pitm", "attribute"):
            pairs = self.stack_pairs(fused, batch.attributes, batch.attribute_count, negatives)
        if self.objective.uses("pitm"):
            logits = self.match_logits(pairs.states[:, 0])
            found["pitm"] = losses.matching(logits, pairs.matches, pairs.valid, over_all(pairs.valid))
        if self.objective.uses("attribute"):
            found["attribute"] = self.match_attributes(pairs)
        if self.objective.uses("prd"):
            found["prd"] = losses.replaced_pairs(self.prd_head(fused["positive"][:, 0]).float(), batch.replaced)
        if self.objective.uses("mlm"):
            found["mlm"] = self.predict_words(fused["mlm"], words["mlm"], alpha)
        if self.objective.uses("mrtd"):
            labels = words["mrtd"].labels
            logits = self.mrtd_head(fused["mrtd"]).float()
            found["mrtd"] = losses.token_replaced(logits, labels, over_all(labels != losses.IGNORED))
        return found

    def stack_pairs(self, fused: dict[str, Tensor], attributes: Tensor, count: int, negatives: Negatives) -> "Pairs":
        """Positives, texts with negative images, negative texts with images: 3B rows."""
        names = ("positive", "negative_image", "negative_text")
        places = torch.arange(len(names) * len(attributes), device=attributes.device)
        return Pairs(
            states=torch.cat([fused[name] for name in names]),
            attributes=torch.cat([attributes, attributes, attributes[negatives.text]]),
            attribute_count=count,
            matches=(places < len(attributes)).long(),
            valid=torch.cat([torch.ones_like(negatives.valid), negatives.valid, negatives.valid]),
        )

    def match_attributes(self, pairs: "Pairs") -> Tensor:
        """Attribute loss (MARS section 3.3) on the mean state of each attribute's words."""
        weights = losses.attribute_weights(pairs.attributes, pairs.attribute_count)  # [3B, C, T]
        with full_precision(weights):
            logits = self.match_logits(weights @ pairs.states.float())
        present = weights.any(-1)
        total = over_all(pairs.valid & present.any(1))
        return losses.attribute_matching(logits, present, pairs.matches, pairs.valid, total)

    def predict_words(self, states: Tensor, words: Words, alpha: float) -> Tensor:
        """MLM; logits of masked words alone, unless the distilled term is normalised over all positions."""
        labels, teacher, axis = words.labels, words.teacher, self.objective.mlm_distill_axis
        total = over_all(labels != losses.IGNORED)
        if teacher is None or axis == "vocabulary":
            states, labels = (part.flatten(0, 1)[words.chosen][None] for part in (states, labels))  # [1, M, ...]
            teacher = None if teacher is None else teacher.flatten(0, 1)[words.chosen][None]

        def loss(states: Tensor) -> Tensor:
            logits = self.text_encoder.vocabulary_logits(states).float()
            opinion = None if teacher is None else teacher.float()
            return losses.masked_language(logits, labels, opinion, alpha, axis, total)

        vocabulary = self.text_encoder.cls.predictions.bias
        return recomputed(loss, states, kept=bytes_of(labels.numel(), len(vocabulary), like=vocabulary))

    def reconstruct(self, image: Tensor, reading: Reading, draws: RandomDraws) -> Tensor:
        """Text-guided masked autoencoder (MARS section 3.4): mean squared pixel error on removed patches."""
        keep = PatchSubset.from_noise(draws.patch_noise(), self.objective.mask_ratio)
        predicted = self.predict_patches(image, keep, reading)
        return losses.reconstruction(predicted.float(), patchify(image, self.patch_size), keep.removed)

    def predict_patches(self, image: Tensor, keep: PatchSubset, reading: Reading) -> Tensor:
        """Pixels [B, L, P*P*3] of all patches, from the kept ones and the caption."""
        visible = self.visual_encoder(image, keep)
        tokens = fill_removed(visible, keep, self.mask_token) + self.visual_decoder_pos_embed
        tokens = self.visual_decoder(tokens, reading.states, reading.tokens.mask)
        return self.decoder_pred(tokens[:, 1:])


@dataclass(frozen=True)
class Pairs:
    """3B rows of text and image: states [3B, T, D], attributes [3B, T], matches and valid [3B]."""

    states: Tensor
    attributes: Tensor
    attribute_count: int
    matches: Tensor
    valid: Tensor


def over_all(chosen: Tensor) -> Tensor:
    """How many are chosen, as a mean over processes (see `losses`)."""
    return mean_over_processes(chosen.sum().float())
