"""The person search model: ALBEF, RaSa and MARS by configuration.

Letters: B batch, R rows, N image tokens (1 + L), L patches, T text tokens, D width, E embedding, V vocabulary, P patch.

A training step, in the order of `forward`: both models embed images and captions; hard negatives; masked and replaced
words; one fusion of all rows with the images; the losses of `objectives.LOSSES`. `forward` changes nothing: a step
that turns out to be useless leaves no trace. After one that was taken, `advance` moves queues and momentum model.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softmax

from dataset.batch import SpecialTokens, TextTokens, TrainBatch
from models import losses
from models.decoder import DecoderSize, VisualDecoder, fill_removed
from models.fusion import ImageKeysValues, TextEncoder
from models.fusion_batch import FusionRows, encode_captions, encode_prefixes, fuse_words
from models.gradcam import FusionMaps
from models.image_encoder import ImageEncoder, PatchSubset, PixelStatistics
from models.kernels import Linear, convert_weights
from models.momentum import Momentum
from models.objectives import LOSSES, Objective, PartSizes, compute_losses
from models.packed_text import PackedText, pack_captions
from models.pairing import Pairing
from models.randomness import MaskedTokens, RandomDraws, StepNoise
from models.search_model import SearchModel
from models.training_step import Embeddings, Negatives, QueueEntry, Reading, StepOutput, TrainingStep, Words, is_soft
from utils.precision import full_precision
from utils.processes.distributed import gather_together


def embed(projection: nn.Module, tokens: Tensor) -> Tensor:
    """Normalised float32 projection of CLS: [B, N, D] -> [B, E]."""
    return normalize(projection(tokens[:, 0]).float(), dim=-1)


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
    """Flat indices [at_most] of the masked words of captions, then of others."""
    return (drawn.labels != losses.IGNORED).flatten().byte().argsort(descending=True, stable=True)[: drawn.at_most]


class PersonSearchModel(Momentum, SearchModel, FusionMaps):
    """Image encoder, text and fusion encoder, momentum copies, queues, match head, and the parts of the losses."""

    search_parts = ("visual_encoder.", "text_encoder.bert.", "vision_proj.", "text_proj.", "itm_head.")
    # word and pixel predictions
    study_parts = (
        "text_encoder.cls.",
        "mask_token",
        "visual_decoder.",
        "visual_decoder_pos_embed",
        "decoder_pred.",
        "temp",
    )
    reranks = True
    visual_encoder_m: ImageEncoder
    text_encoder_m: TextEncoder
    vision_proj_m: nn.Linear
    text_proj_m: nn.Linear
    # of the masked autoencoder, where it has a weight
    visual_decoder: VisualDecoder
    mask_token: nn.Parameter
    visual_decoder_pos_embed: nn.Parameter
    decoder_pred: nn.Linear

    def __init__(
        self,
        visual_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        decoder: DecoderSize,
        objective: Objective,
        special: SpecialTokens,
        embed_dim: int = 256,
    ):
        super().__init__()
        width = text_encoder.size.hidden_size
        self.patch_size, self.grid = visual_encoder.patch_size, visual_encoder.grid
        self.objective, self.special = objective, special
        self.visual_encoder, self.text_encoder = visual_encoder, text_encoder
        self.vision_proj = nn.Linear(visual_encoder.width, embed_dim)
        self.text_proj = nn.Linear(width, embed_dim)
        self.temp = nn.Parameter(torch.tensor(objective.temp))
        self.itm_head = balanced(nn.Linear(width, 2))
        self.build_parts(
            PartSizes(
                vision_width=visual_encoder.width,
                text_width=width,
                patches=self.grid[0] * self.grid[1],
                patch_size=self.patch_size,
                decoder=decoder,
                gradient_checkpointing=text_encoder.gradient_checkpointing,
            )
        )
        self.build_momentum()
        self.build_queues(embed_dim, objective.queue_size)
        self.linear_layers = [layer for layer in self.modules() if isinstance(layer, Linear)]

    def build_parts(self, sizes: PartSizes) -> None:
        """Heads and decoders of the losses that have a weight."""
        fast: set[str] = set()
        for loss in (LOSSES[name] for name in self.objective.used):
            parts = loss.parts(sizes)
            for name, part in parts.items():
                setattr(self, name, part)
            fast |= parts.keys() if loss.fast else set()
        self.fast_parts = frozenset(fast)

    def undecayed(self) -> set[str]:
        """Names of parameters that weight decay leaves alone, beyond those of one dimension and biases."""
        return {f"visual_encoder.{name}" for name in self.visual_encoder.undecayed()}

    def fast(self) -> set[str]:
        """Names of parameters that learn with a rate of their own (`optimizer.lr_custm`)."""
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in self.fast_parts}

    # ---- encoding ----------------------------------------------------------------------

    @property
    def statistics(self) -> PixelStatistics:
        return self.visual_encoder.statistics

    @property
    def embedding_width(self) -> int:
        """E."""
        return self.vision_proj.out_features

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 images [B, 3, H, W] as the image encoder takes them; float images are taken as normalised already."""
        return self.statistics.normalise(image)

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W], uint8 or normalised -> tokens [B, N, D] and embeddings [B, E]."""
        tokens = self.visual_encoder(self.normalise(image))
        return tokens, embed(self.vision_proj, tokens)

    def encode_text(self, text: TextTokens, packed: PackedText | None = None) -> Reading:
        """A caption encoded without images; packed: how captions lie, where words alone are computed (training)."""
        prefix, states = encode_captions(self.text_encoder, text, packed)
        return Reading(text, prefix, states, embed(self.text_proj, states))

    def embed_text(self, text: TextTokens) -> Tensor:
        """Captions -> embeddings [B, E]."""
        return self.encode_text(text).embedding

    def match_scores(self, text_prefix: Tensor, mask: Tensor, images: ImageKeysValues, pairing: Pairing) -> Tensor:
        """ITM match logits [R] of texts (from `text_encoder.encode_prefix`) fused with images."""
        states = self.text_encoder.fuse(text_prefix, mask, images, pairing, cls_only=True)
        return self.match_logits(states[:, 0])[:, 1]

    def match_logits(self, states: Tensor) -> Tensor:
        """ITM logits [..., 2] (no match, match) of multi-modal states [..., D], in float32.

        bfloat16 would round scores to steps of 0.01 and make ties of close ones.
        """
        with full_precision(states):
            return self.itm_head(states.float())

    @torch.no_grad()
    def encode_momentum(
        self, image: Tensor, text: TextTokens, packed: PackedText | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The momentum model's image tokens [B, N, D], image embeddings and text embeddings [B, E]."""
        tokens = self.visual_encoder_m(image)
        _, states = encode_captions(self.text_encoder_m, text, packed)
        return tokens, embed(self.vision_proj_m, tokens), embed(self.text_proj_m, states)

    def noise_source(self, seed: int) -> Callable[[int, Sequence[int]], StepNoise]:
        """What draws the noise of a step by epoch and indices of its samples; it can be sent to loader processes."""
        tokens, patches = self.text_encoder.size.max_position_embeddings, self.grid[0] * self.grid[1]
        return partial(StepNoise.draw, seed, tokens=tokens, patches=patches)

    def make_draws(self, noise: StepNoise, caption: TextTokens, some_hidden: bool = False) -> RandomDraws:
        """The random draws of a step from its noise, in main memory; caption: what words are masked of, some of which
        the data may have hidden already."""
        most = noise.most_masked("mlm", caption.ids.shape[1], self.objective.mlm_probability)
        return RandomDraws(noise, self.special, self.text_encoder.size.vocab_size, {"mlm": most}, some_hidden)

    # ---- a training step ---------------------------------------------------------------

    def forward(
        self, batch: TrainBatch, draws: RandomDraws, alpha: float | Tensor, negatives_within: int | None = None
    ) -> StepOutput:
        """Losses by name for a batch on this device, and what enters the queues.

        alpha: share of the momentum model in soft targets, in the step of a run a scalar on the device, so that its
        value is not part of a compiled graph. negatives_within: draw hard negatives among groups of so
        many consecutive samples; None = all samples of the process.
        """
        with convert_weights(self.linear_layers):
            return self.compute_step(batch, draws, alpha, negatives_within)

    def compute_step(
        self, batch: TrainBatch, draws: RandomDraws, alpha: float | Tensor, negatives_within: int | None
    ) -> StepOutput:
        """See `forward`: its stages, one after the other."""
        batch = replace(batch, image1=self.normalise(batch.image1), image2=self.normalise(batch.image2))
        tokens, image = self.encode_image(batch.image1)
        words, words2 = pack_captions((batch.caption, batch.caption2), self.text_encoder.size.head_width)
        caption = self.encode_text(batch.caption2, words2)
        tokens_m, image_m, text_m = None, image.detach(), caption.embedding.detach()
        if self.objective.asks_momentum(is_soft(alpha)):
            tokens_m, image_m, text_m = self.encode_momentum(batch.image2, batch.caption2, words2)
        embeddings = Embeddings(image, caption.embedding, image_m, text_m)

        everyone = QueueEntry(*gather_together(image_m, text_m, batch.identity))
        step = TrainingStep(self, batch, draws, alpha, tokens, caption, embeddings, everyone)
        rows = self.objective.rows
        if any(row.startswith("negative") for row in rows):
            step.negatives = self.draw_negatives(embeddings, batch.identity, draws, negatives_within)
        step.words = self.prepare_words(rows, batch.caption, words, tokens_m, draws, is_soft(alpha))
        step.fused = self.fuse_rows(rows, step, words)
        return StepOutput(compute_losses(self.objective.used, step), everyone)

    @torch.no_grad()
    def draw_negatives(
        self, embeddings: Embeddings, identity: Tensor, draws: RandomDraws, within: int | None
    ) -> Negatives:
        """One hard negative image per text and text per image, likelier the more similar (RaSa, p-ITM)."""
        with full_precision(embeddings.image):
            allowed = identity[:, None] != identity[None, :]
            if within is not None:
                group = torch.arange(len(identity), device=identity.device) // within
                allowed &= group[:, None] == group[None, :]
            image_weights = negative_weights(embeddings.text @ embeddings.image_m.T / self.temp, allowed)
            text_weights = negative_weights(embeddings.image @ embeddings.text_m.T / self.temp, allowed)
            return Negatives(*draws.hard_negatives(image_weights, text_weights), allowed.any(1))

    @torch.no_grad()
    def prepare_words(
        self,
        rows: list[str],
        caption: TextTokens,
        packed: PackedText | None,
        tokens_m: Tensor | None,
        draws: RandomDraws,
        soft: bool,
    ) -> dict[str, Words]:
        """Of the rows "masked" and "replaced" those asked for, with the momentum model's opinion on the words.

        packed: how captions lie, if they are. soft: the momentum model has a share in the targets of masked words.
        """
        drawn: dict[str, MaskedTokens] = {}
        if "masked" in rows:
            drawn["masked"] = draws.masked_tokens(caption, "mlm", self.objective.mlm_probability)
        if "replaced" in rows:
            drawn["replaced"] = draws.masked_tokens(caption, "mrtd", self.objective.mrtd_mask_probability)
        asked = [name for name in drawn if name == "replaced" or soft]
        states: dict[str, Tensor] = {}
        if asked and tokens_m is not None:
            images = self.text_encoder_m.project_images(tokens_m)
            given = {name: drawn[name].ids for name in asked}
            states = fuse_words(self.text_encoder_m, given, caption, images, packed)
        everywhere = soft and self.objective.mlm_distill_axis == "positions"
        chosen = masked_first(drawn["masked"]) if "masked" in drawn else None
        if chosen is not None and "masked" in states:
            states["masked"] = states["masked"].flatten(0, 1).index_select(0, chosen)
        if packed is not None and "replaced" in states:
            states["replaced"] = packed.pack(states["replaced"])
        logits = self.momentum_logits(states)
        words: dict[str, Words] = {}
        if "masked" in rows:
            ids, labels = drawn["masked"].ids, drawn["masked"].labels
            words["masked"] = Words(ids, labels, chosen, logits.get("masked"), whole=everywhere)
        if "replaced" in rows:
            words["replaced"] = self.label_replaced(caption, draws.sampled_tokens(logits["replaced"], packed))
        return words

    def momentum_logits(self, states: dict[str, Tensor]) -> dict[str, Tensor]:
        """The momentum model's vocabulary logits [..., V] of states [..., D] by name, by one product."""
        if not states:
            return {}
        flat = [part.flatten(0, -2) for part in states.values()]
        logits = self.text_encoder_m.vocabulary_logits(torch.cat(flat)).split([len(part) for part in flat])
        return {
            name: found.unflatten(0, part.shape[:-1])
            for (name, part), found in zip(states.items(), logits, strict=True)
        }

    def label_replaced(self, caption: TextTokens, sampled: Tensor) -> Words:
        """m-RTD (RaSa section 3.2): keep [CLS], zero the padding; label 1 where a word differs."""
        ids = sampled.where(caption.mask, self.special.pad)
        ids = torch.cat([torch.full_like(ids[:, :1], self.special.cls), ids[:, 1:]], dim=1)
        labels = (ids != caption.ids).long()
        ignored = (ids == self.special.cls) | (ids == self.special.pad)
        return Words(ids, labels.masked_fill(ignored, losses.IGNORED))

    def fuse_rows(self, asked: list[str], step: TrainingStep, packed: PackedText | None) -> dict[str, Tensor]:
        """Multi-modal states [B, T, D] of the rows that losses ask for, by name, in one pass.

        packed: how captions lie, if they are.
        """
        if not asked:
            return {}
        rows, prefix = FusionRows(), step.caption.prefix
        if "positive" in asked:
            rows.add("positive", prefix)
        if step.negatives is not None and "negative_text" in asked:
            rows.add("negative_text", prefix, texts=step.negatives.text)
        if step.negatives is not None and "negative_image" in asked:
            rows.add_crossed("negative_image", prefix, step.negatives.image)
        ids = {name: words.ids for name, words in step.words.items()}
        if ids:
            whole = [name for name, words in step.words.items() if words.whole]
            prefixes = encode_prefixes(self.text_encoder, ids, step.batch.caption, packed, whole)
            for name, masked in prefixes.items():
                rows.add(name, masked)
        return rows.fuse(self.text_encoder, self.text_encoder.project_images(step.tokens))

    def predict_patches(self, image: Tensor, keep: PatchSubset, caption: Reading) -> Tensor:
        """Pixels [B, L, P*P*3] of all patches of normalised images, from the kept ones and the caption."""
        visible = self.visual_encoder(image, keep)
        tokens = fill_removed(visible, keep, self.mask_token) + self.visual_decoder_pos_embed
        tokens = self.visual_decoder(tokens, caption.states, caption.tokens.mask)
        return self.decoder_pred(tokens[:, 1:])
