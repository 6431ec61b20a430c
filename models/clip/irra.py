"""IRRA (CVPR 2023): CLIP, and losses that align its similarities and its tokens with what is known of a person.

With the contrastive loss alone it is CLIP, as it is or fine-tuned.

Letters: B batch, N image tokens, T text tokens, E embedding, C identities, V vocabulary, M samples of all processes,
K masked words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dataset.batch import PairBatch
from models.clip import losses
from models.clip.clip_model import ClipModel
from models.clip.cross_modal import PARTS, CrossModal
from models.clip.encoder import EncoderSize, TowerEncoding
from models.clip.masked_word_maps import masked_word_maps
from models.clip.step import Everyone, gather_pairs, unit
from models.clip.towers import HEAD_WIDTH, DualEncoder
from models.kernels import Linear
from models.loss_means import take_means
from models.losses import Mean
from models.word_maps import MarkedText, WordMaps, attribute_maps
from utils.errors import UserError, did_you_mean
from utils.precision import full_precision

PUBLISHED = ("sdm", "mlm", "id")


@dataclass(frozen=True)
class IrraSettings:
    """What is learned, and with which parts.

    losses: names of LOSSES. classes: identities of the training data. temperature: of SDM and ITC, a constant.
    masked_captions: the published training masks words in place, so that SDM and the classifier read masked captions.
    """

    losses: tuple[str, ...] = PUBLISHED
    classes: int = 0
    temperature: float = 0.02
    cross_depth: int = 4
    cross_heads: int | None = None  # None = as many as are 64 wide
    masked_captions: bool = True

    def heads(self, width: int) -> int:
        """Of the cross-modal encoder, which is as wide as the embedding."""
        return self.cross_heads or max(1, width // HEAD_WIDTH)


@dataclass(frozen=True)
class IrraStep:
    """What a loss reads: features [B, E]; for MLM tokens of image [B, N, E] and masked caption [B, T, E], else None."""

    batch: PairBatch
    image_tokens: Tensor | None
    masked_tokens: Tensor | None
    image: Tensor
    text: Tensor
    everyone: Everyone


class IRRA(ClipModel, CrossModal):
    """The dual encoder, and a classifier and a cross-modal encoder where a loss asks for them.

    predicts_words: whether the latter has learned, or does now; a file without it leaves it as it was drawn.

    Raises UserError when a loss is unknown, or has no classes.
    """

    search_parts = ("base_model.",)
    study_parts = PARTS  # it tells words; the classifier knows the people of its training data alone

    def __init__(self, size: EncoderSize, settings: IrraSettings, gradient_checkpointing: bool = False):
        check_losses(settings)
        super().__init__(size, gradient_checkpointing)
        self.settings, width = settings, size.embedding
        self.predicts_words = "mlm" in settings.losses
        if "id" in settings.losses:
            self.classifier = Linear(width, settings.classes)
            nn.init.normal_(self.classifier.weight, std=0.001)
            nn.init.zeros_(self.classifier.bias)
        if "mlm" in settings.losses:
            self.build_cross_modal(width, settings.heads(width), settings.cross_depth, size.vocabulary)

    def image_embeddings(self, image: Tensor) -> dict[str, Tensor]:
        return self.embeddings_of(self.base_model.encode_image(image))

    def embeddings_of(self, image: TowerEncoding) -> dict[str, Tensor]:
        return {"global": unit(image.feature())}

    def text_embeddings(self, ids: Tensor) -> dict[str, Tensor]:
        return {"global": unit(self.base_model.encode_text(ids).feature())}

    def is_exported(self, name: str) -> bool:
        """A cross-modal encoder that has not learned stays behind: in an exported model it would count as trained."""
        return super().is_exported(name) and (self.predicts_words or not name.startswith(PARTS))

    @property
    def map_targets(self) -> Sequence[str]:
        found = super().map_targets
        return (*found, "word") if found and self.predicts_words else found

    def map_layers(self, target: str) -> Sequence[int]:
        return (0,) if target == "word" else super().map_layers(target)  # it has one cross-attention

    def word_maps(
        self, images: Tensor, marked: MarkedText, layer: int, target: str, with_words: bool = False
    ) -> WordMaps:
        """Masked words: of an attribute, and of a caption, the mean of their words."""
        if target != "word":
            return super().word_maps(images, marked, layer, target, with_words)
        assert isinstance(self.base_model, DualEncoder)
        with torch.no_grad():
            image = self.base_model.encode_image(self.statistics.normalise(images))
            score = (self.embedding_of(image) * self.embed_text(marked.text)).sum(-1)
        maps, probability = masked_word_maps(self.base_model, self, image.tokens(), marked)
        count = (marked.words > 0).sum(1, keepdim=True).clamp(min=1)
        return WordMaps(
            maps=maps,
            caption=maps.sum(1) / count,
            attributes=attribute_maps(maps, marked.attributes),
            score=score,
            attribute_score=attribute_maps(probability[..., None], marked.attributes)[..., 0],
        )

    def compute_losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """One training step: unweighted losses by name."""
        step = self.read(batch)
        return take_means({name: LOSSES[name](self, step) for name in self.settings.losses})

    def read(self, batch: PairBatch) -> IrraStep:
        """Both modalities encoded; the caption once where its features are those of the masked one.

        Where no masked words are told, tokens are not asked for; in OpenAI's towers no other than CLS and EOT comes out
        of the last block then.
        """
        masked, in_place = batch.masked, self.settings.masked_captions
        image = self.base_model.encode_image(batch.image)
        text = self.base_model.encode_text(masked.ids if masked is not None and in_place else batch.ids)
        if masked is None or "mlm" not in self.settings.losses:
            return step_of(batch, image.feature(), text.feature())
        image_feature, image_tokens = image.with_tokens()
        if in_place:
            text_feature, masked_tokens = text.with_tokens()
        else:
            text_feature, masked_tokens = text.feature(), self.base_model.encode_text(masked.ids).tokens()
        return step_of(batch, image_feature, text_feature, image_tokens, masked_tokens)


def step_of(
    batch: PairBatch,
    image: Tensor,
    text: Tensor,
    image_tokens: Tensor | None = None,
    masked_tokens: Tensor | None = None,
) -> IrraStep:
    """See `IrraStep`; features [B, E] in any precision."""
    image, text = image.float(), text.float()
    return IrraStep(batch, image_tokens, masked_tokens, image, text, gather_pairs(image, text, batch.identity))


def check_losses(settings: IrraSettings) -> None:
    unknown = next((name for name in settings.losses if name not in LOSSES), None)
    if unknown is not None:
        raise UserError(f"unknown loss '{unknown}' of IRRA{did_you_mean(unknown, LOSSES)}; it has {', '.join(LOSSES)}")
    if "id" in settings.losses and settings.classes < 1:
        raise UserError("the loss id of IRRA classifies identities, of which none are there; leave it out or give data")


# ---- losses ----------------------------------------------------------------------------


def scaled_similarities(model: IRRA, step: IrraStep) -> tuple[Tensor, Tensor]:
    """Cosines over the temperature, of images to all texts and of texts to all images: [B, M] each."""
    everyone, scale = step.everyone, 1 / model.settings.temperature
    with full_precision(step.image):
        return scale * unit(step.image) @ unit(everyone.text).T, scale * unit(step.text) @ unit(everyone.image).T


def similarity_distribution(model: IRRA, step: IrraStep) -> Tensor:
    """SDM (IRRA section 3.3)."""
    return losses.similarity_distribution(*scaled_similarities(model, step), step.everyone.same)


def contrastive(model: IRRA, step: IrraStep) -> Tensor:
    """ITC, as CLIP is trained."""
    return losses.contrastive(*scaled_similarities(model, step), step.everyone.own)


def projection_matching(model: IRRA, step: IrraStep) -> Tensor:
    """CMPM: SDM's forerunner, on projections of features that are not normalised."""
    everyone = step.everyone
    with full_precision(step.image):
        of_images, of_texts = step.image @ unit(everyone.text).T, step.text @ unit(everyone.image).T
    return losses.projection_matching(of_images, of_texts, everyone.same)


def identity(model: IRRA, step: IrraStep) -> Tensor:
    """Which person is it? Features of both modalities have one classifier."""
    of_image, of_text = (model.classifier(features).float() for features in (step.image, step.text))
    return losses.identity(of_image, of_text, step.batch.identity)


def masked_words(model: IRRA, step: IrraStep) -> Mean:
    """MLM (IRRA section 3.2): masked words predicted from image and caption; logits of masked words alone.

    Raises UserError without masked captions.
    """
    masked, tokens, image_tokens = step.batch.masked, step.masked_tokens, step.image_tokens
    if masked is None or tokens is None or image_tokens is None:
        raise UserError("the loss mlm of IRRA needs captions with masked words; turn masking on, or leave out mlm")
    # an index of known length, which neither waits for a GPU nor is a shape of its own
    chosen = (masked.labels != losses.NOT_MASKED).flatten().byte().argsort(descending=True, stable=True)[: masked.most]
    states = model.fuse(tokens, image_tokens).flatten(0, 1).index_select(0, chosen)  # [K, E]
    return losses.masked_words(model.mlm_head(states).float(), masked.labels.flatten().index_select(0, chosen))


LOSSES: dict[str, Callable[[IRRA, IrraStep], Tensor | Mean]] = {
    "sdm": similarity_distribution,
    "mlm": masked_words,
    "id": identity,
    "itc": contrastive,
    "cmpm": projection_matching,
}


def loss_names(text: str) -> tuple[str, ...]:
    """`sdm+mlm+id` -> its parts."""
    return tuple(part for part in text.split("+") if part)
