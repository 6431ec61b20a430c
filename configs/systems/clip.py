"""CLIP, as it is or fine-tuned, and IRRA: one model, by what it learns."""

from collections.abc import Mapping
from typing import Any

from configs.clip import ClipConfig, IrraConfig
from configs.systems.pairs import PairTraining
from configs.systems.system import System, TrainingSetting
from dataset.build import count_identities, open_clip_tokenizer
from dataset.clip_tokens import ClipTokenizer
from models.clip.build import load_clip, start_clip
from models.clip.irra import IRRA as Model
from utils.errors import UserError


def fit(config: ClipConfig, tokenizer: ClipTokenizer, for_training: bool = False) -> ClipConfig:
    """With the number of identities that a classifier tells apart. Raises UserError when it is set too low."""
    if not for_training or not config.weights["id"]:
        return config
    found = count_identities(config)
    if config.identities is not None and config.identities < found:
        raise UserError(
            f"config: `identities` {config.identities} is less than the {found} of the training data; leave it out"
        )
    return config.model_copy(update={"identities": config.identities or found})


def build(config: ClipConfig, special: object) -> Model:
    """Freshly initialised."""
    return Model(config.size, config.irra, config.gradient_checkpointing)


def start(model: Model, checkpoint: Mapping[str, Any] | None, config: ClipConfig) -> None:
    start_clip(model, checkpoint)


def open_training(setting: TrainingSetting, model: Model, tokenizer: ClipTokenizer) -> PairTraining:
    # padding takes part in the cross-modal encoder, as published, so that rows must be as long as they are then
    masks = setting.config.masks_words
    return PairTraining(setting, model, tokenizer, full_rows=masks > 0, mask_words=masks)


CLIP = System(ClipConfig, open_clip_tokenizer, fit, build, load_clip, start, open_training)
IRRA = System(IrraConfig, open_clip_tokenizer, fit, build, load_clip, start, open_training)
