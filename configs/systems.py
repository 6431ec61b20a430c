"""The systems that a configuration may be of (`system: NAME`): the one table of them.

To add one, write its settings, its model (`models.search_model.SearchModel`) and how its files are read, and an entry
in SYSTEMS. Nothing else asks which system a model is of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from configs.clip import ClipConfig, RdeConfig
from configs.schema import Config, MarsConfig
from dataset.build import FROM_CAPTIONS, fit_vocabulary, open_clip_tokenizer, open_tokenizer
from models.build import build_model
from models.clip.build import build_clip, build_rde, load_clip, load_rde
from models.clip.rde import RdeSettings
from models.person_search import PersonSearchModel
from models.released import load_trained
from models.start import start_model

USUAL_SYSTEM = "mars"


@dataclass(frozen=True)
class System:
    """How a system is made of a configuration.

    config: the keys it has. open_tokenizer: from the configuration, the checkpoint if any, and whether it is for
    training, what reads captions. fit: the configuration with what follows from the tokenizer. build: from the
    configuration and special tokens, a model freshly initialised. load: takes all weights that search needs from a
    checkpoint (with its "path") into a model. start: from a model, a checkpoint if any and the configuration, what a
    new run begins with; None = there is no training of this system. All raise UserError where something does not fit.
    """

    config: type[Config]
    open_tokenizer: Callable[..., Any]
    fit: Callable[..., Any]
    build: Callable[..., Any]
    load: Callable[..., Any]
    start: Callable[..., Any] | None = None


def start_mars(model: PersonSearchModel, checkpoint: Mapping[str, Any] | None, config: MarsConfig) -> None:
    """See `start_model`: a checkpoint, else a BERT, and an image encoder of its own file."""
    language_model = None if config.text_encoder == FROM_CAPTIONS else config.text_encoder
    start_model(model, checkpoint, config.vision_checkpoint, language_model)


def as_it_is(config: Config, tokenizer: Any) -> Config:
    """A configuration of which nothing follows from the tokenizer."""
    return config


def rde_settings(config: RdeConfig) -> RdeSettings:
    return RdeSettings(width=config.selection_width, select_ratio=config.select_ratio)


SYSTEMS: dict[str, System] = {
    "mars": System(MarsConfig, open_tokenizer, fit_vocabulary, build_model, load_trained, start_mars),
    "clip": System(ClipConfig, open_clip_tokenizer, as_it_is, lambda config, _: build_clip(config.size), load_clip),
    "rde": System(
        RdeConfig,
        open_clip_tokenizer,
        as_it_is,
        lambda config, _: build_rde(config.size, rde_settings(config)),
        load_rde,
    ),
}
