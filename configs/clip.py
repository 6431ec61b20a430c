"""Keys of the CLIP systems, beside those of every run (`configs.schema.Config`)."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from configs.schema import Config
from dataset.images import Resampling
from dataset.word_noise import MASKED
from models.clip.division import MixtureName, usual_mixture
from models.clip.encoder import EncoderSize
from models.clip.irra import LOSSES, PUBLISHED, IrraSettings
from models.clip.library_model import in_order, require_possible
from models.clip.library_towers import LibrarySize, text_length, vocabulary
from models.clip.losses import PairLossName, PairLossSettings
from models.clip.parameter_groups import ClipOptimizer, RdeOptimizer
from models.clip.rde import EMBEDDINGS, RdeSettings
from models.clip.token_selection import BatchNorm
from models.clip.towers import HEAD_WIDTH, ClipSize
from models.image_encoder import PixelStatistics
from utils.config import Count, NotNegative, Positive, Section
from utils.errors import did_you_mean
from utils.training.learning_rate import FactorSchedule


def both_sides(value: Any) -> Any:
    """One side in pixels -> [height, width]."""
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


Sides = Annotated[list[Count], Field(min_length=2, max_length=2), BeforeValidator(both_sides)]


def heads_of(heads: int | None, width: int) -> int:
    """Attention heads of a tower of this width; None = one for 64 numbers of it."""
    return heads or max(1, width // HEAD_WIDTH)


class ClipSizes(Section):
    """Sizes of both towers, by default those of OpenAI's ViT-B/16; those of a file must be the same.

    vision_heads, text_heads: null = one for 64 numbers of the width, as in all published models.
    """

    patch_size: Count = ClipSize.patch_size
    vision_width: Count = ClipSize.vision_width
    vision_depth: Count = ClipSize.vision_depth
    vision_heads: Count | None = None
    text_width: Count = ClipSize.text_width
    text_depth: Count = ClipSize.text_depth
    text_heads: Count | None = None
    text_length: Annotated[int, Field(ge=3)] = ClipSize.text_length
    vocabulary: Annotated[int, Field(ge=4)] = ClipSize.vocabulary
    embedding: Count = ClipSize.embedding
    quick_gelu: bool = ClipSize.quick_gelu


OfColours = Annotated[list[float], Field(min_length=3, max_length=3)]


class LibraryModel(Section):
    """Towers of another architecture than OpenAI's, which open_clip builds.

    model: its `model_cfg`. mean, std: of red, green and blue from 0 to 1, in the images that it was trained on.
    resampling: how these were resized.
    """

    model: dict[str, Any]
    mean: OfColours
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    resampling: Resampling = "bicubic"

    @field_validator("model")
    @classmethod
    def possible(cls, value: dict[str, Any]) -> dict[str, Any]:
        require_possible(value)
        return in_order(value)

    @property
    def text_length(self) -> int:
        """Positions of its text tower."""
        return text_length(self.model)

    @property
    def vocabulary(self) -> int:
        """Tokens of its text tower."""
        return vocabulary(self.model)

    @property
    def has_own_words(self) -> bool:
        """Whether a tokenizer of transformers reads captions, and not CLIP's."""
        return bool(self.model["text_cfg"].get("hf_tokenizer_name"))

    @property
    def tokenizer_options(self) -> Mapping[str, Any]:
        """How that is to be used, as open_clip says."""
        return self.model["text_cfg"].get("tokenizer_kwargs") or {}

    def size(self, image_size: tuple[int, int], pad: int) -> LibrarySize:
        """What the towers are built by, for images of (height, width) and captions padded with a token."""
        mean, std = ((red, green, blue) for red, green, blue in (self.mean, self.std))
        return LibrarySize(self.model, image_size, PixelStatistics(mean, std), pad)


class DualEncoderConfig(Config):
    """What all systems on CLIP's dual encoder have.

    image_res: [height, width] in pixels, or one side of squares.
    stride_size: pixels from one patch to the next; null = they lie side by side.
    open_clip: towers that open_clip builds, which a folder of its own describes; null = OpenAI's architecture (`clip`).
    max_words: tokens of a caption that are read, start and end included; by default all that the text tower reads.
    weights: of the losses by name; one that is 0 is not computed.
    """

    usual_weights: ClassVar[Mapping[str, float]]  # of all losses there are
    image_res: Sides = [384, 128]
    stride_size: Count | None = None
    clip: ClipSizes = ClipSizes()
    open_clip: LibraryModel | None = None
    max_words: Annotated[int, Field(ge=3)] = ClipSize.text_length
    gradient_checkpointing: bool = False
    # recipe
    batch_size_train: Count = 64
    optimizer: ClipOptimizer = ClipOptimizer()
    schedular: FactorSchedule = FactorSchedule()

    @model_validator(mode="before")
    @classmethod
    def as_long_as_the_table(cls, values: Any) -> Any:
        """Without `max_words`, captions are as long as the text tower of open_clip reads them."""
        found = values.get("open_clip") if isinstance(values, Mapping) else None
        if not isinstance(found, Mapping) or "max_words" in values:
            return values
        try:
            return {**values, "max_words": text_length(found["model"])}
        except (KeyError, TypeError, AttributeError):  # what is wrong with it is told with all else
            return values

    @field_validator("weights")
    @classmethod
    def known_losses(cls, values: dict[str, float]) -> dict[str, float]:
        """Weights that are not given are the usual ones."""
        for name in values:
            if name not in cls.usual_weights:
                known = ", ".join(cls.usual_weights)
                raise ValueError(f"unknown loss '{name}'{did_you_mean(name, cls.usual_weights)}; there are {known}")
        return {**cls.usual_weights, **values}

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.image_res
        return height, width

    @property
    def resampling(self) -> Resampling:
        """As IRRA and RDE resize; OpenAI's own evaluation is bicubic. Other models have their own way."""
        return self.open_clip.resampling if self.open_clip else "bilinear"

    def encoder_size(self, pad: int) -> EncoderSize:
        """What the towers are built by; pad: the token that captions are padded with."""
        return self.open_clip.size(self.image_size, pad) if self.open_clip else self.size

    @property
    def size(self) -> ClipSize:
        """The same of OpenAI's architecture."""
        stride = self.stride_size or self.clip.patch_size
        return ClipSize(image_size=self.image_size, stride=stride, **{**self.clip.model_dump(), **self.heads})

    @property
    def embedding(self) -> int:
        """Numbers of the embedding that images and captions share."""
        return self.open_clip.model["embed_dim"] if self.open_clip else self.clip.embedding

    @property
    def heads(self) -> dict[str, int]:
        """Of both towers, which the shapes of a file do not tell."""
        sizes = self.clip
        return {
            "vision_heads": heads_of(sizes.vision_heads, sizes.vision_width),
            "text_heads": heads_of(sizes.text_heads, sizes.text_width),
        }

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Pairs (key, what is wrong) for values that do not fit each other."""
        yield from Config.conflicts(self)
        yield from self.size_conflicts() if self.open_clip is None else self.library_conflicts(self.open_clip)
        if self.k_test:
            yield "k_test", f"a model of the system {self.system} does not re-rank; leave it out, or set it to 0"
        if not any(self.weights.values()):
            yield "weights", "every weight is 0, so there is nothing to learn"
        if self.compile == "step":
            yield "compile", f"the system {self.system} compiles its layers alone; set it to layers, or to false"

    def size_conflicts(self) -> Iterator[tuple[str, str]]:
        """Sizes of OpenAI's architecture that do not fit each other."""
        sizes = self.clip
        if min(self.image_res) < sizes.patch_size:
            yield "image_res", f"{self.image_res} is smaller than a patch of {sizes.patch_size} pixels"
        for tower, width, heads in (
            ("vision", sizes.vision_width, self.heads["vision_heads"]),
            ("text", sizes.text_width, self.heads["text_heads"]),
        ):
            if width % heads:
                yield f"clip.{tower}_heads", f"clip.{tower}_width {width} is not divisible by {heads} heads"
        if self.max_words > sizes.text_length:
            yield "max_words", f"is beyond clip.text_length ({sizes.text_length})"

    def library_conflicts(self, library: LibraryModel) -> Iterator[tuple[str, str]]:
        """Keys that towers built by open_clip do not have."""
        if self.max_words > library.text_length:
            yield "max_words", f"is beyond the {library.text_length} positions of the text tower; lower it"
        if self.clip != ClipSizes():
            yield "clip", "has sizes of OpenAI's architecture, and open_clip builds another one; leave it out"
        if self.stride_size is not None:
            yield "stride_size", "open_clip lays patches side by side; set it to null"
        if self.compile:
            yield "compile", "towers that open_clip builds are not compiled; set it to false"


class ClipConfig(DualEncoderConfig):
    """The dual encoder, trained as IRRA is, by default with the contrastive loss alone, as CLIP was.

    temperature: of the losses, a constant. mlm_probability: share of the words that are masked; masked_captions: all
    losses read the masked captions, as published. cross_depth, cross_heads: blocks of the cross-modal encoder that
    tells masked words, and their heads (null = one for 64 numbers of the width). identities: people of the training
    data, whom the classifier tells apart; null = they are counted.
    """

    usual_weights = dict.fromkeys(LOSSES, 0.0) | {"itc": 1.0}
    system: Literal["clip", "irra"] = "clip"
    weights: dict[str, NotNegative] = dict(usual_weights)
    temperature: Positive = IrraSettings.temperature
    mlm_probability: Annotated[float, Field(gt=0, lt=1)] = MASKED
    masked_captions: bool = IrraSettings.masked_captions
    cross_depth: Count = IrraSettings.cross_depth
    cross_heads: Count | None = None
    identities: Count | None = None

    @property
    def masks_words(self) -> float:
        """The share of words that training masks."""
        return self.mlm_probability if self.weights["mlm"] else 0.0

    @property
    def irra(self) -> IrraSettings:
        """What is learned. Without a number of identities there is no classifier."""
        used = [name for name, weight in self.weights.items() if weight and (name != "id" or self.identities)]
        return IrraSettings(
            losses=tuple(used),
            classes=self.identities or 0,
            temperature=self.temperature,
            cross_depth=self.cross_depth,
            cross_heads=self.cross_heads,
            masked_captions=self.masked_captions,
        )


class IrraConfig(ClipConfig):
    """IRRA: similarity distributions, masked words predicted from the image, identities."""

    usual_weights = dict.fromkeys(LOSSES, 0.0) | dict.fromkeys(PUBLISHED, 1.0)
    system: Literal["irra"] = "irra"
    weights: dict[str, NotNegative] = dict(usual_weights)


class RdeConfig(DualEncoderConfig):
    """RDE: beside the embedding of CLS and end, one of the tokens that these attend to, and a division of all pairs.

    select_ratio: share of patches and tokens that are selected; selection_width: of their embedding. weights: of the
    loss of either embedding. pair_loss, tau, margin, temperature: that loss. batch_norm: "frozen" = with running
    statistics in training too. mixture: how closely the losses of clean and noisy pairs are fitted; None = by
    `noisy_rate`, as published. division: false = all pairs count as clean.
    """

    usual_weights = dict.fromkeys(EMBEDDINGS, 1.0)
    system: Literal["rde"] = "rde"
    weights: dict[str, NotNegative] = dict(usual_weights)
    optimizer: RdeOptimizer = RdeOptimizer()
    select_ratio: Annotated[float, Field(gt=0, le=1)] = RdeSettings.select_ratio
    selection_width: Annotated[int, Field(ge=2)] = RdeSettings.width
    pair_loss: PairLossName = RdeSettings.loss
    tau: Positive = PairLossSettings._field_defaults["tau"]
    margin: NotNegative = PairLossSettings._field_defaults["margin"]
    temperature: Positive = PairLossSettings._field_defaults["temperature"]
    batch_norm: BatchNorm = RdeSettings.batch_norm
    division: bool = True
    mixture: MixtureName | None = None

    def library_conflicts(self, library: LibraryModel) -> Iterator[tuple[str, str]]:
        """All of it: RDE selects tokens by what CLS and the end of a caption attend to."""
        why = "RDE selects tokens by the attention of the last block, which towers built by open_clip do not show"
        yield "open_clip", f"{why}; set `system` to clip or irra"

    @property
    def chosen_mixture(self) -> MixtureName:
        """The mixture that divides the pairs."""
        return self.mixture or usual_mixture(self.noisy_rate)

    @property
    def rde(self) -> RdeSettings:
        """What is learned."""
        return RdeSettings(
            loss=self.pair_loss,
            learned=tuple(name for name in EMBEDDINGS if self.weights[name]),
            width=self.selection_width,
            select_ratio=self.select_ratio,
            batch_norm=self.batch_norm,
            pairs=PairLossSettings(self.tau, self.margin, self.temperature),
            micro_batches=self.accumulate_steps,
        )
