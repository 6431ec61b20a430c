"""CLIP, as it is or fine-tuned, and IRRA: one model, by what it learns."""

from collections.abc import Mapping
from typing import Any

from configs.clip import ClipConfig, IrraConfig
from configs.systems.open_architecture import follow_open_clip
from configs.systems.pairs import PairTraining
from configs.systems.system import System, TrainingSetting
from dataset.build import count_identities, open_clip_tokenizer
from dataset.tokens import Special, TextTokenizer
from models.clip.build import load_clip, start_clip
from models.clip.irra import IRRA as Model
from utils.errors import UserError


def fit(config: ClipConfig, tokenizer: TextTokenizer, for_training: bool = False) -> ClipConfig:
    """With the number of identities that a classifier tells apart.

    Raises UserError when it is set too low, words are to be masked that have no mask, or heads do not fit a checkpoint.
    """
    asked = config.weights["mlm"] or config.cross_heads is not None  # else there is no cross-modal encoder
    if asked and config.embedding % (heads := config.irra.heads(config.embedding)):
        raise UserError(f"config: `cross_heads` {heads} does not divide the embedding of {config.embedding} numbers")
    if for_training:
        require_mask(config, tokenizer)
    if not for_training or not config.weights["id"]:
        return config
    found = count_identities(config)
    if config.identities is not None and config.identities < found:
        raise UserError(
            f"config: `identities` {config.identities} is less than the {found} of the training data; leave it out"
        )
    return config.model_copy(update={"identities": config.identities or found})


def require_mask(config: ClipConfig, tokenizer: TextTokenizer) -> None:
    """Raises UserError when words are to be hidden, and the tokenizer has no token for that."""
    wanted = {"weights.mlm": config.weights["mlm"], "augment_words": config.augment_words}
    for key, value in wanted.items():
        if value and getattr(tokenizer.special, "mask", None) is None:
            raise UserError(
                f"config: `{key}` {value:g} hides words, and the tokenizer of this model has no mask token; set it to 0"
            )


def build(config: ClipConfig, special: Special) -> Model:
    """Freshly initialised."""
    return Model(config.encoder_size(special.pad), config.irra, config.gradient_checkpointing)


def start(model: Model, checkpoint: Mapping[str, Any] | None, config: ClipConfig) -> None:
    start_clip(model, checkpoint)


def open_training(setting: TrainingSetting, model: Model, tokenizer: TextTokenizer) -> PairTraining:
    # padding takes part in the cross-modal encoder, as published, so that rows must be as long as they are then
    masks = setting.config.masks_words
    return PairTraining(setting, model, tokenizer, full_rows=masks > 0, mask_words=masks)


CLIP = System(ClipConfig, open_clip_tokenizer, fit, build, load_clip, start, open_training, follow_open_clip)
IRRA = System(IrraConfig, open_clip_tokenizer, fit, build, load_clip, start, open_training, follow_open_clip)
