"""What is learned: one table of losses, from which all else that concerns a loss follows.

Letters: B batch, L patches, T text tokens, D width, E embedding, R rows, C attributes, M masked words.

To add a loss, write a function of a `TrainingStep` that returns its scalar, and an entry in LOSSES. Its weight
`weights.NAME`, its head, its learning rate, the rows that are fused for it, logs and curves follow from the entry.

A loss must not depend on how a batch is spread over processes: gradients are averaged over them, so it is a mean over
the samples of its process; where it is a mean over another number, it returns sum and number (`losses.Mean`), and the
numbers of all losses are averaged over processes at once. What compares a sample with others finds those of all
processes in `TrainingStep.everyone`, and gathers what needs a gradient (`gather_with_gradient`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from models import losses
from models.decoder import DecoderSize, VisualDecoder, patchify
from models.image_encoder import PatchSubset
from models.kernels import Linear, bytes_of, checkpointed
from models.loss_means import take_means
from models.training_step import TrainingStep, is_soft
from utils.config import Count, Fraction, NotNegative, Part, Positive, Section
from utils.errors import did_you_mean
from utils.precision import full_precision
from utils.processes.distributed import gather_with_gradient

PAIRS = ("positive", "negative_text", "negative_image")
ROWS = (*PAIRS, "masked", "replaced")


@dataclass(frozen=True)
class PartSizes:
    """What the parts of losses are built by: widths of image and text states, patches of an image, the decoder."""

    vision_width: int
    text_width: int
    patches: int
    patch_size: int
    decoder: DecoderSize
    gradient_checkpointing: bool = False


Parts = Mapping[str, nn.Module | nn.Parameter]


def no_parts(sizes: PartSizes) -> Parts:
    return {}


@dataclass(frozen=True)
class Loss:
    """One loss: how it is computed, and what it asks for.

    compute: from a training step to the unweighted loss, a scalar or a `Mean`. rows: fused rows that it reads, of ROWS.
    parts: modules and parameters that it alone needs, registered in the model by their names when its weight is above
    0. fast: they learn with `optimizer.lr_custm`. momentum: it asks the momentum model always, never, or for "soft"
    targets alone (alpha above 0). weight: unless it is configured. published: its index in the published lists of seven
    weights, of which RaSa's are the first five.
    """

    compute: Callable[[TrainingStep], Tensor | losses.Mean]
    rows: tuple[str, ...] = ()
    parts: Callable[[PartSizes], Parts] = no_parts
    fast: bool = False
    momentum: Literal["always", "soft", "never"] = "never"
    weight: float = 0.0
    published: int | None = None


def head(name: str, outputs: int) -> Callable[[PartSizes], Parts]:
    """A linear layer `name` on multi-modal states: D -> outputs."""
    return lambda sizes: {name: nn.Linear(sizes.text_width, outputs)}


def compute_losses(names: Iterable[str], step: TrainingStep) -> dict[str, Tensor]:
    """The unweighted losses of these names, as scalars; what means are over is counted on all processes at once."""
    return take_means({name: LOSSES[name].compute(step) for name in names})


# ---- the losses of ALBEF, RaSa and MARS ------------------------------------------------


def contrastive(step: TrainingStep) -> Tensor:
    """Mean of the contrastive loss over i2t, t2i (ALBEF), i2i and t2t (RaSa section 3.1)."""
    model, given, everyone = step.model, step.embeddings, step.everyone
    with full_precision(given.image):
        known, soft = everyone.identity, is_soft(step.alpha)
        if model.objective.contrastive_keys == "online":
            soft = False
            image, text = gather_with_gradient(torch.stack([given.image, given.text], dim=1)).unbind(1)
            keys = {"i": [image.T], "t": [text.T]}
        else:
            known = torch.cat([known, model.idx_queue[0]])
            keys = {"i": [everyone.image.T, model.image_queue], "t": [everyone.text.T, model.text_queue]}
        same = losses.identity_targets(step.batch.identity, known)
        queries = {"i": (given.image, given.image_m), "t": (given.text, given.text_m)}
        terms = []
        for query, key in (term.split("2") for term in model.objective.contrastive_terms):
            online, momentum = queries[query]
            similar = similarities(online, keys[key])
            teacher = similarities(momentum, keys[key]) if soft else None
            terms.append(losses.contrastive_term(similar, teacher, same, model.temp, step.alpha))
        return torch.stack(terms).mean()


def similarities(queries: Tensor, keys: list[Tensor]) -> Tensor:
    """[B, E] to all keys of several [E, M], side by side; a queue is not copied for it."""
    return torch.cat([queries @ part for part in keys], dim=1)


def image_text_matching(step: TrainingStep) -> losses.Mean:
    """p-ITM (RaSa section 3.1): does the text describe the image?"""
    pairs = step.pairs
    return losses.matching(step.model.match_logits(pairs.states[:, 0]), pairs.matches, pairs.valid)


def masked_words(step: TrainingStep) -> losses.Mean:
    """MLM; logits of masked words alone, unless the distilled term is normalised over all positions."""
    model, words, states = step.model, step.words["masked"], step.fused["masked"]
    assert words.chosen is not None, "masked words are chosen where they are drawn"
    labels, axis, longest = words.labels, model.objective.mlm_distill_axis, step.batch.caption.longest
    left = words.chosen if words.whole else None  # to be chosen, when all positions have been normalised over
    if not words.whole:
        states, labels = (part.flatten(0, 1).index_select(0, words.chosen) for part in (states, labels))

    def total(states: Tensor) -> Tensor:
        logits = model.text_encoder.vocabulary_logits(states).float()
        opinion = None if words.teacher is None else words.teacher.float()
        return losses.masked_language(logits, labels, opinion, step.alpha, axis, longest, left).total

    vocabulary = model.text_encoder.cls.predictions.bias
    kept = bytes_of(labels.numel(), len(vocabulary), like=vocabulary)
    return losses.Mean(checkpointed(total, states, kept=kept), (labels != losses.IGNORED).sum())


def replaced_pair(step: TrainingStep) -> Tensor:
    """PRD (RaSa section 3.1): is the caption another one of the same person?"""
    return losses.replaced_pairs(step.head("prd_head")(step.fused["positive"][:, 0]).float(), step.batch.replaced)


def replaced_words(step: TrainingStep) -> losses.Mean:
    """m-RTD (RaSa section 3.2): which words did the momentum model put in?"""
    labels = step.words["replaced"].labels
    logits = step.head("mrtd_head")(step.fused["replaced"]).float()
    return losses.token_replaced(logits, labels)


def reconstruction(step: TrainingStep) -> Tensor:
    """Text-guided masked autoencoder (MARS section 3.4): mean squared pixel error on removed patches."""
    model, image = step.model, step.batch.image1
    keep = PatchSubset.from_noise(step.draws.patch_noise(), model.objective.mask_ratio)
    pixels = model.predict_patches(image, keep, step.caption)
    return losses.reconstruction(pixels.float(), patchify(image, model.patch_size), keep.removed).value


def decoder_parts(sizes: PartSizes) -> Parts:
    """The masked autoencoder's decoder, mask token, positions and pixel head, under the released names."""
    width = sizes.vision_width
    mask_token = nn.Parameter(torch.empty(1, 1, width))
    positions = nn.Parameter(torch.empty(1 + sizes.patches, width))
    parts: Parts = {
        "visual_decoder": VisualDecoder(sizes.decoder, width, sizes.text_width, sizes.gradient_checkpointing),
        "mask_token": mask_token,
        "visual_decoder_pos_embed": positions,
        "decoder_pred": Linear(width, sizes.patch_size**2 * 3),
    }
    for tensor in (mask_token, positions):
        nn.init.trunc_normal_(tensor, std=0.02)
    return parts


def attribute_matching(step: TrainingStep) -> losses.Mean:
    """Attribute loss (MARS section 3.3) on the mean state of each attribute's words.

    As published, no attribute of a text matches the image of somebody else; "unshared" leaves out those that the
    image's own caption names too, which do.
    """
    pairs = step.pairs
    weights = losses.attribute_weights(pairs.attributes, pairs.attribute_count)  # [3B, C, T]
    with full_precision(weights):
        logits = step.model.match_logits(weights @ pairs.states.float())
    present = weights.any(-1)
    if step.model.objective.attribute_negatives == "unshared":
        keys = losses.attribute_keys(step.caption.tokens.ids, step.batch.attributes, pairs.attribute_count)
        named = losses.named_there(keys, *step.samples_of_pairs())
        present = present & ~(named & (pairs.matches == 0)[:, None])
    return losses.attribute_matching(logits, present, pairs.matches, pairs.valid)


# Heads are built in this order, and their parameters drawn in it.
LOSSES: dict[str, Loss] = {
    "cl": Loss(contrastive, weight=0.5, published=0),  # what it asks of the momentum model is configured
    "pitm": Loss(image_text_matching, rows=PAIRS, momentum="always", weight=1.0, published=1),
    "mlm": Loss(masked_words, rows=("masked",), momentum="soft", weight=1.0, published=2),
    "prd": Loss(replaced_pair, ("positive",), head("prd_head", 2), fast=True, weight=0.5, published=3),
    "mrtd": Loss(
        replaced_words, ("replaced",), head("mrtd_head", 2), fast=True, momentum="always", weight=0.5, published=4
    ),
    "mae": Loss(reconstruction, parts=decoder_parts, weight=1.0, published=5),
    "attribute": Loss(attribute_matching, rows=PAIRS, momentum="always", weight=2.0, published=6),
}


# ---- weights ---------------------------------------------------------------------------


def published_names() -> list[str]:
    """The losses in the order of the published lists of weights."""
    positions = {loss.published: name for name, loss in LOSSES.items() if loss.published is not None}
    return [positions[index] for index in sorted(positions)]


def only(*names: str) -> dict[str, float]:
    """Weights of 1 for these losses, 0 for all others."""
    return {name: float(name in names) for name in LOSSES}


def name_weights(value: Any) -> Any:
    """Weights by name: a mapping on top of the usual weights, a list of seven, or RaSa's five (the others are 0).

    Raises ValueError when a name is unknown, or a list has another length.
    """
    if isinstance(value, Mapping):
        unknown = next((name for name in value if name not in LOSSES), None)
        if unknown is not None:
            raise ValueError(f"unknown loss '{unknown}'{did_you_mean(str(unknown), LOSSES)}")
        return {name: value.get(name, loss.weight) for name, loss in LOSSES.items()}
    if isinstance(value, list):
        names = published_names()
        if len(value) not in (5, len(names)):
            raise ValueError(f"a list of 5 or {len(names)} numbers is expected ({', '.join(names)}), not {len(value)}")
        return {**only(), **dict(zip(names, value, strict=False))}
    return value


class Objective(Section):
    """What is learned, beside the sizes of the networks.

    weights: loss name -> weight; a loss of weight 0 is not computed and its parts not built. contrastive_keys:
    "momentum" compares with momentum embeddings of batch and queue (ALBEF); "online" with the batch itself, gradient on
    both sides and identities alone as targets (CLIP): the quicker way to learn from nothing. attribute_negatives: which
    attributes of a text are taught not to match another person's image, see `attribute_matching`.
    """

    weights: dict[str, NotNegative] = Field(default={}, validate_default=True)
    temp: Positive = 0.07
    momentum: Fraction = 0.995
    queue_size: Count = 65536
    mask_ratio: Part = 0.75
    mlm_probability: Fraction = 0.15
    mrtd_mask_probability: Fraction = 0.3
    mlm_distill_axis: Literal["vocabulary", "positions"] = "vocabulary"
    contrastive_terms: Annotated[list[losses.ContrastiveTerm], Field(min_length=1)] = list(losses.CONTRASTIVE_TERMS)
    contrastive_keys: Literal["momentum", "online"] = "momentum"
    attribute_negatives: Literal["all", "unshared"] = "all"

    @field_validator("weights", mode="before")
    @classmethod
    def by_name(cls, value: Any) -> Any:
        return name_weights(value)

    @property
    def used(self) -> list[str]:
        """The losses that have a weight, in the order of the table."""
        return [name for name in LOSSES if self.weights.get(name, 0) > 0]

    def uses(self, *names: str) -> bool:
        """Whether any of these losses has a weight."""
        return any(name in self.used for name in names)

    @property
    def teaches_all(self) -> bool:
        """Whether every parameter that learns gets a gradient in each step: by all published losses, of which the
        contrastive one reaches a projection through its queries, and through keys that are not the momentum model's."""
        embedded = {term[0] for term in self.contrastive_terms}
        return set(published_names()) <= set(self.used) and (self.contrastive_keys == "online" or len(embedded) == 2)

    @property
    def rows(self) -> list[str]:
        """The fused rows that the losses ask for."""
        asked = {row for name in self.used for row in LOSSES[name].rows}
        return [row for row in ROWS if row in asked]

    def asks_momentum(self, soft: bool) -> bool:
        """Whether a loss asks the momentum model. soft: it has a share in soft targets."""
        needed = {"always", "soft"} if soft else {"always"}
        return self.contrastive_keys == "momentum" or any(LOSSES[name].momentum in needed for name in self.used)
